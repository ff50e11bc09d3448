"""All edges of a state run as one, held to one module per edge and operation."""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lbgnas.batch_statistics import BatchStatistics
from lbgnas.networks.supernet import Supernet
from lbgnas.operations.source import SourceEdges
from lbgnas.space import SearchSpace
from tests.naive import CASES, Halve, build, close, gradients, pairs

pytestmark = pytest.mark.usefixtures("float64")


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
