"""All edges of a state run as one, held to one module per edge and operation."""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lbgnas.batch_statistics import BatchStatistics
from lbgnas.errors import LbgnasError
from lbgnas.networks.layout import CellPlace, check_size, reduction_cells
from lbgnas.networks.supernet import SearchCell, Supernet
from lbgnas.operations.source import SourceEdges
from lbgnas.space import CANDIDATES, SearchSpace, edge_index, load_space

pytestmark = pytest.mark.usefixtures("float64")


# One module per edge and operation, as the published implementations build them


class Zero(nn.Module):
    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        return x[:, :, :: self.stride, :: self.stride] * 0


class Halve(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.even = nn.Conv2d(channels, channels // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(channels, channels // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=False)

    def forward(self, x):
        x = torch.relu(x)
        return self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], 1))


def stage(channels, kernel, stride, dilation):
    padding = dilation * (kernel // 2)
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=False),
    ]


def naive_operation(name, channels, stride):
    norm = nn.BatchNorm2d(channels, affine=False)
    if name == "none":
        return Zero(stride)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else Halve(channels)
    if name == "max_pool_3x3":
        return nn.Sequential(nn.MaxPool2d(3, stride, 1), norm)
    if name == "avg_pool_3x3":
        return nn.Sequential(nn.AvgPool2d(3, stride, 1, count_include_pad=False), norm)
    kernel = int(name[-1])
    if name.startswith("dil"):
        return nn.Sequential(*stage(channels, kernel, stride, 2))
    return nn.Sequential(*stage(channels, kernel, stride, 1), *stage(channels, kernel, 1, 1))


class Naive(nn.Module):
    def __init__(self, channels, stride, operations):
        super().__init__()
        self.edges = nn.ModuleList(
            nn.ModuleList(naive_operation(name, channels, stride) for name in names) for names in operations
        )

    def forward(self, x, mixture):
        return torch.stack(
            [
                sum(mixture[e, k] * operation(x) for k, operation in enumerate(edge))
                for e, edge in enumerate(self.edges)
            ],
            1,
        )


def pairs(edges, naive):
    """Yield (the stacked tensor's part, the same tensor of the single module, whether it is a buffer)."""
    c = edges.channels
    positions = {"first": 0, "second": 0}
    for name, kernel_stages in (
        ("sep_conv_3x3", 2),
        ("sep_conv_5x5", 2),
        ("dil_conv_3x3", 1),
        ("dil_conv_5x5", 1),
    ):
        for index, (e, k) in enumerate(edges.places.get(name, [])):
            module = naive.edges[e][k]
            for number, which in enumerate(("first", "second")[:kernel_stages]):
                place = positions[which]
                block = slice(place * c, (place + 1) * c)
                _, depthwise, pointwise, norm = list(module)[4 * number : 4 * number + 4]
                stacked = edges.get_parameter(f"{name}_depthwise_{which}")
                yield stacked, slice(index * c, (index + 1) * c), depthwise.weight
                yield edges.get_parameter(f"pointwise_{which}"), place, pointwise.weight
                yield edges.get_buffer(f"mean_{which}"), block, norm.running_mean
                yield edges.get_buffer(f"var_{which}"), block, norm.running_var
                positions[which] += 1
    for name in ("max_pool_3x3", "avg_pool_3x3"):
        for index, (e, k) in enumerate(edges.places.get(name, [])):
            norm, block = naive.edges[e][k][1], slice(index * c, (index + 1) * c)
            yield edges.get_buffer(f"mean_{name}"), block, norm.running_mean
            yield edges.get_buffer(f"var_{name}"), block, norm.running_var
    if edges.stride == 2:
        for index, (e, k) in enumerate(edges.places.get("skip_connect", [])):
            module, half = naive.edges[e][k], slice(index * (c // 2), (index + 1) * (c // 2))
            block = slice(index * c, (index + 1) * c)
            yield edges.skip_even, half, module.even.weight
            yield edges.skip_odd, half, module.odd.weight
            yield edges.mean_skip, block, module.norm.running_mean
            yield edges.var_skip, block, module.norm.running_var


S1_NORMAL_SHORT = (
    "skip,d3 skip,d5 skip,d5 skip,s3 skip,d3 mp,skip skip,s3 skip,s3 skip,d3 skip,s3 mp,skip skip,d3 d3,d5 d3,d5"
)
S1_REDUCE_SHORT = "mp,ap mp,d3 mp,ap mp,ap skip,d5 mp,ap mp,s3 skip,d3 skip,d5 mp,ap mp,ap skip,d5 skip,d5 skip,d5"
FULL_NAMES = {
    "skip": "skip_connect",
    "d3": "dil_conv_3x3",
    "d5": "dil_conv_5x5",
    "s3": "sep_conv_3x3",
    "mp": "max_pool_3x3",
    "ap": "avg_pool_3x3",
}
S1_NORMAL, S1_REDUCE = (
    tuple(tuple(FULL_NAMES[short] for short in pair.split(",")) for pair in cell.split())
    for cell in (S1_NORMAL_SHORT, S1_REDUCE_SHORT)
)


def leaving(cell, source):
    return tuple(cell[edge_index(node, source)] for node in range(max(0, source - 1), 4))


CASES = {
    "darts": (CANDIDATES,) * 3,
    "darts, one edge": (CANDIDATES,),
    "S2": (("skip_connect", "sep_conv_3x3"),) * 4,
    "S3": (("none", "skip_connect", "sep_conv_3x3"),) * 2,
    **{f"S1 normal {source}": leaving(S1_NORMAL, source) for source in range(5)},
    **{f"S1 reduce {source}": leaving(S1_REDUCE, source) for source in range(5)},
    "none only": (("none",), ("none",)),
    "none on one edge": (("none",), ("sep_conv_5x5",), ("none",)),
    "pools only": (("max_pool_3x3", "avg_pool_3x3"), ("avg_pool_3x3", "none")),
    "other columns": (
        ("dil_conv_3x3", "avg_pool_3x3", "skip_connect"),
        ("skip_connect", "sep_conv_5x5", "none"),
        ("sep_conv_3x3", "dil_conv_5x5", "max_pool_3x3"),
        ("none", "dil_conv_3x3", "sep_conv_3x3"),
    ),
}


def build(case, stride, channels=4):
    operations = CASES[case]
    torch.manual_seed(0)
    edges, naive = SourceEdges(channels, stride, operations), Naive(channels, stride, operations)
    with torch.no_grad():
        for buffers in naive.buffers():
            if buffers.is_floating_point():
                buffers.add_(0.3 * torch.rand_like(buffers))
        for stacked, where, single in pairs(edges, naive):
            stacked[where].copy_(single.reshape(stacked[where].shape))
    mixture = torch.randn(len(operations), len(operations[0])).softmax(1).requires_grad_()
    x = torch.randn(3, channels, 6, 6, requires_grad=True)
    return edges, naive, x, mixture


def close(actual, expected):
    return torch.allclose(actual, expected, rtol=1e-9, atol=1e-10)


def gradients(output, weights, wanted):
    if not output.requires_grad:  # nothing but "none"
        return [torch.zeros_like(value) for value in wanted]
    loss = (output * weights).sum()
    return list(torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("composed", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_one_module_per_edge_gives_the_same(case, stride, training, composed):
    edges, naive, x, mixture = build(case, stride)
    edges.train(training)
    naive.train(training)
    with BatchStatistics(update=True, composed=composed):
        output = edges(x, mixture)
    expected = naive(x, mixture)
    assert output.shape == expected.shape == (3, len(CASES[case]), 4, 6 // stride, 6 // stride)
    assert close(output, expected)

    weights = torch.randn_like(expected)
    ours = gradients(output, weights, [x, mixture, *edges.parameters()])
    theirs = gradients(expected, weights, [x, mixture, *naive.parameters()])
    assert close(ours[0], theirs[0])
    assert close(ours[1], theirs[1])
    own = dict(zip(map(id, edges.parameters()), ours[2:], strict=True))
    single_own = dict(zip(map(id, naive.parameters()), theirs[2:], strict=True))
    compared = dict.fromkeys(own, 0)
    for stacked, where, single in pairs(edges, naive):
        if isinstance(single, nn.Parameter):
            assert close(own[id(stacked)][where].reshape(single.shape), single_own[id(single)])
            compared[id(stacked)] += single.numel()
        else:
            assert close(stacked[where], single), "running statistics"
    assert compared == {id(p): p.numel() for p in edges.parameters()}, "every parameter was compared"


@pytest.mark.parametrize("case", ["darts", "other columns"])
def test_no_statistics_move_without_update(case):
    edges, _, x, mixture = build(case, 2)
    before = {name: value.clone() for name, value in edges.named_buffers()}
    for policy in (
        BatchStatistics(update=False),
        BatchStatistics(update=False, composed=True),
        BatchStatistics(update=False, rows=2),
    ):
        with policy:
            edges(x, mixture)
    assert before
    assert all(torch.equal(before[name], value) for name, value in edges.named_buffers())


@pytest.mark.parametrize("inside", [None, False, True])
def test_one_value_per_channel_leaves_running_statistics(inside):
    """A lone sample at one pixel has no variance; without care it makes the running one NaN."""
    edges, *_, mixture = build("darts", 1)
    before = {name: value.clone() for name, value in edges.named_buffers()}
    context = contextlib.nullcontext() if inside is None else BatchStatistics(update=True, composed=inside)
    with context:
        output = edges(torch.randn(1, 4, 1, 1), mixture)
    assert torch.isfinite(output).all()
    assert all(torch.equal(before[name], value) for name, value in edges.named_buffers())


@pytest.mark.parametrize("side", [5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_odd_sizes(side, stride):
    case = "none only" if stride == 2 else "darts"
    edges, naive, _, mixture = build(case, stride)
    x = torch.randn(2, 4, side, side)
    assert close(edges(x, mixture), naive(x, mixture))


def test_samples_do_not_mix_in_evaluation():
    edges, _, x, mixture = build("darts", 2)
    edges.eval()
    assert close(edges(x, mixture)[1:2], edges(x[1:2], mixture))


def test_channels_last_changes_nothing():
    edges, _, x, mixture = build("darts", 2)
    assert close(edges(x.contiguous(memory_format=torch.channels_last), mixture), edges(x, mixture))


# Cells and whole supernets


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


# Stages, auxiliary skips, noise and operations of a user's own


def test_dropped_skips_keep_their_mean_and_leave_the_rest_alone():
    edges, *_ = build("S3", 1)
    x = torch.ones(64, 4, 6, 6)
    mixture = torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.25, 0.0]])
    output = edges(x, mixture, skip_dropout=0.3)
    for edge, weight in enumerate((0.5, 0.25)):
        values = output[:, edge].unique()
        assert close(values, torch.tensor([0.0, weight / 0.7]))
        assert output[:, edge].mean().item() == pytest.approx(weight, rel=0.05)
    assert not torch.equal(output[:, 0] > 0, output[:, 1] > 0), "every edge draws for itself"
    sides = edges.eval()(x, mixture, skip_dropout=0.3)
    assert close(sides, edges(x, mixture)), "nothing is dropped in evaluation"
    strided, *_, mixture = build("S3", 2)
    assert torch.equal(strided(x, mixture, skip_dropout=0.9), strided(x, mixture)), "a factorised skip is no plain one"


@pytest.mark.parametrize("stride", [1, 2])
def test_noise_does_not_look_at_the_state(stride):
    edges = SourceEdges(4, stride, (("noise",), ("noise", "none")[:1]))
    mixture = torch.tensor([[1.0], [2.0]])
    draws = []
    for x in (torch.zeros(50, 4, 6, 6), torch.full((50, 4, 6, 6), 1e6)):
        torch.manual_seed(0)
        draws.append(edges(x, mixture))
    assert torch.equal(*draws)
    assert draws[0].shape == (50, 2, 4, 6 // stride, 6 // stride)
    assert draws[0][:, 0].std().item() == pytest.approx(1, rel=0.05)
    assert draws[0][:, 1].std().item() == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("stride", [1, 2])
def test_auxiliary_skips_are_added_with_their_weight(stride):
    torch.manual_seed(0)
    operations = (("skip_connect", "sep_conv_3x3"), ("sep_conv_3x3", "none"))
    plain = SourceEdges(4, stride, operations)
    beside = {
        name: SourceEdges(4, stride, tuple((*names, name) for names in operations))
        for name in ("auxiliary_skip", "auxiliary_conv")
    }
    x, mixture = torch.randn(3, 4, 6, 6), torch.rand(2, 2)
    weighed = torch.cat([mixture, torch.full((2, 1), 0.5)], 1)
    for edges in beside.values():
        edges.load_state_dict(plain.state_dict(), strict=False)
        added = edges(x, weighed) - plain(x, mixture)
        if stride == 1:
            assert close(added, 0.5 * x[:, None].expand_as(added)), "both begin as the identity"
            continue
        for edge in range(2):
            single = Halve(4)
            with torch.no_grad():
                single.even.weight.copy_(edges.auxiliary_even[2 * edge : 2 * edge + 2])
                single.odd.weight.copy_(edges.auxiliary_odd[2 * edge : 2 * edge + 2])
            assert close(added[:, edge], 0.5 * single(x))


def test_edges_with_fewer_candidates_give_the_rest_no_weight():
    operations = [["skip_connect", "sep_conv_3x3", "none"], ["sep_conv_3x3"]]
    space = SearchSpace(name="mine", nodes=1, concat=(2,), operations=operations)
    net = Supernet(space, 3, 4, 3)
    with torch.no_grad():
        net.alphas_normal.normal_()
    mixture, _ = net.mixtures("normal")
    assert close(mixture[0], net.alphas_normal[0].softmax(0))
    assert mixture[1].tolist() == [1, 0, 0]
    net(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert net.alphas_normal.grad[0].any()
    assert not net.alphas_normal.grad[1].any()
    assert torch.isfinite(net.alphas_normal.grad).all()


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


class Seen(BatchStatistics):
    def __init__(self):
        super().__init__(update=False)
        self.functions = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.functions.append(func)
        return super().__torch_function__(func, types, args, kwargs)


def test_a_context_looks_at_operations_of_others_only():
    def functions(*operations):
        edges = SourceEdges(4, 1, (operations,) * 2)
        with Seen() as context:
            edges(torch.randn(3, 4, 8, 8), torch.full((2, len(operations)), 0.5))
        return context.functions

    assert len(functions("sep_conv_3x3", "dil_conv_5x5", "max_pool_3x3", "skip_connect")) < 10
    assert functions("sep_conv_3x3", "conv_7x1_1x7").count(F.batch_norm) == 2
