"""Cells and whole supernets: sums over edges, mixtures, sizes and widths that fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lbgnas.errors import LbgnasError
from lbgnas.networks.layout import CellPlace, check_size, reduction_cells
from lbgnas.networks.supernet import SearchCell, Supernet
from lbgnas.space import CANDIDATES, SearchSpace, edge_index, load_space
from tests.naive import Naive, close, pairs

pytestmark = pytest.mark.usefixtures("float64")


def small(**settings):
    standard = {"name": "small", "nodes": 2, "concat": (2, 3), "operations": CANDIDATES}
    return SearchSpace(**{**standard, **settings})


def naive_cell(cell, naives, space, older, last, mixture, edge_weights):
    """The published form: every node the sum of its edges, every edge with its own channel shuffle."""
    states = [cell.preprocess0(older), cell.preprocess1(last)]
    for node in range(space.nodes):
        total = 0
        for source in range(2 + node):
            row = edge_index(node, source)
            state = states[source]
            width = state.shape[1] // space.partial_channels
            position = cell.rows[source].index(row)
            output = naives[source](state[:, :width], mixture[cell.rows[source]])[:, position]
            if space.partial_channels > 1:
                rest = state[:, width:]
                if cell.reduction and source < 2:
                    rest = nn.functional.max_pool2d(rest, 2, 2)
                if edge_weights is not None:
                    # the mixture carries the edge's weight already
                    rest = rest * edge_weights[row]
                joined = torch.cat([output, rest], 1)
                n, c, h, w = joined.shape
                k = space.partial_channels
                output = joined.view(n, k, c // k, h, w).transpose(1, 2).reshape(n, c, h, w)
            total = total + output
        states.append(total)
    return torch.cat([states[index] for index in space.concat], 1)


@pytest.mark.parametrize("reduction", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"partial_channels": 2, "edge_normalisation": True},
        {"partial_channels": 4},
        {"edge_normalisation": True},
        {"nodes": 3, "concat": (4, 2)},
    ],
    ids=str,
)
def test_cell_equals_sums_over_edges(settings, reduction):
    space = small(**settings)
    torch.manual_seed(0)
    net = Supernet(space, 2, 8, 3)
    kind = "reduce" if reduction else "normal"
    cell = SearchCell(space, CellPlace(8, reduction, False, 6, 6))
    with torch.no_grad():
        for value in net.architecture_parameters().values():
            value.normal_()
    mixture, edge_weights = net.mixtures(kind)
    naives = []
    for edges in cell.sources:
        naive = Naive(edges.channels, edges.stride, edges.operations)
        with torch.no_grad():
            for stacked, where, single in pairs(edges, naive):
                single.copy_(stacked[where].reshape(single.shape))
        naives.append(naive)
    older, last = torch.randn(2, 6, 8, 8), torch.randn(2, 6, 8, 8)
    expected = naive_cell(cell, naives, space, older, last, mixture, edge_weights)
    assert close(cell(older, last, mixture, edge_weights), expected)


@pytest.mark.parametrize("name", ["darts", "pcdarts"])
def test_mixtures_are_softmaxes(name):
    space = load_space(name)
    net = Supernet(space, 2, 8, 3)
    with torch.no_grad():
        for value in net.architecture_parameters().values():
            value.normal_(std=2)
    for kind in ("normal", "reduce"):
        mixture, edge_weights = net.mixtures(kind)
        alphas = getattr(net, f"alphas_{kind}")
        plain = alphas.exp() / alphas.exp().sum(1, keepdim=True)
        assert (edge_weights is not None) == space.edge_normalisation
        if edge_weights is None:
            assert close(mixture, plain)
            continue
        betas = getattr(net, f"betas_{kind}")
        for node in range(space.nodes):
            rows = [edge_index(node, source) for source in range(2 + node)]
            exponentials = betas[rows].exp()
            assert edge_weights[rows].sum().item() == pytest.approx(1)
            assert mixture[rows].sum().item() == pytest.approx(1)
            assert close(edge_weights[rows], exponentials / exponentials.sum())
        assert close(mixture, plain * edge_weights[:, None])


@pytest.mark.parametrize("name", ["darts", "pcdarts", "pcdarts-imagenet"])
def test_gradients_reach_every_parameter(name):
    torch.manual_seed(0)
    net = Supernet(load_space(name), 5, 8, 3)
    assert not set(net.weight_parameters()) & set(net.architecture_parameters())
    assert set(net.weight_parameters()) | set(net.architecture_parameters()) == set(dict(net.named_parameters()))
    size = 64 if "imagenet" in name else 16
    net(torch.randn(3, 3, size, size)).square().sum().backward()
    for parameter_name, value in net.named_parameters():
        assert value.grad is not None, parameter_name
        assert value.grad.any(), parameter_name


@pytest.mark.parametrize("cells", [1, 2, 3, 8])
def test_output_shape_and_halvings(cells):
    net = Supernet(small(), cells, 4, 7, in_channels=1)
    assert net(torch.randn(2, 1, 8, 12)).shape == (2, 7)
    assert [i for i, cell in enumerate(net.cells) if cell.reduction] == list(reduction_cells(cells))


@pytest.mark.parametrize(
    ("size", "cells", "stem", "sentence"),
    [
        ((30, 32), 8, "cifar", "30x32.*multiples of 4; the nearest that works is 28 or 32"),
        ((32, 2), 8, "cifar", "32x2.*multiples of 4; the nearest that works is 4"),
        ((7, 7), 1, "cifar", "7x7.*multiples of 2; the nearest that works is 6 or 8"),
        ((0, 8), 8, "cifar", "0x8.*nearest that works is 4"),
        ((224, 220), 14, "imagenet", "224x220.*multiples of 32; the nearest that works is 192 or 224"),
    ],
)
def test_sizes_that_cannot_be_halved_are_refused(size, cells, stem, sentence):
    with pytest.raises(LbgnasError, match=sentence):
        check_size(*size, cells, stem)


@pytest.mark.parametrize(("size", "cells", "stem"), [(32, 8, "cifar"), (6, 1, "cifar"), (224, 14, "imagenet")])
def test_sizes_that_fit_pass(size, cells, stem):
    check_size(size, size, cells, stem)


def test_supernet_refuses_a_size_by_itself():
    with pytest.raises(LbgnasError, match="10x10"):
        Supernet(small(), 3, 4, 2)(torch.zeros(2, 3, 10, 10))


@pytest.mark.parametrize(
    ("space", "cells", "channels"), [("pcdarts", 3, 6), ("pcdarts", 3, 2), ("darts", 0, 4), ("darts", 3, 0)]
)
def test_widths_and_depths_that_do_not_fit_are_refused_in_a_sentence(space, cells, channels):
    with pytest.raises(LbgnasError):
        Supernet(load_space(space), cells, channels, 2)(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize(("space", "channels", "near"), [("pcdarts", 6, 8), ("pcdarts", 2, 8), ("pcdarts", 17, 16)])
def test_the_nearest_width_is_named_and_fits(space, channels, near):
    with pytest.raises(LbgnasError, match=f"channels is {channels}.*the nearest is {near}$"):
        Supernet(load_space(space), 3, channels, 2)
    Supernet(load_space(space), 3, near, 2)(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("points", "cells", "reductions", "side"),
    [(("1/2",), 4, (2,), 6), (("1/4", "1/2", "3/4"), 8, (2, 4, 6), 8), (("0", "2/3"), 3, (0, 2), 4)],
)
def test_more_or_fewer_reductions(points, cells, reductions, side):
    space = small(reductions=points)
    net = Supernet(space, cells, 4, 3)
    assert tuple(i for i, cell in enumerate(net.cells) if cell.reduction) == reductions
    assert net(torch.randn(2, 3, side, side)).shape == (2, 3)
    assert net.classifier.in_features == 4 * 2 ** len(reductions) * 2
    with pytest.raises(LbgnasError, match="multiples of"):
        net(torch.zeros(2, 3, side + 1, side + 1))
