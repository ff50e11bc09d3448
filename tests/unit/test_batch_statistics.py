from __future__ import annotations

import contextlib
import copy

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from lbgnas.batch_statistics import BatchStatistics, running_statistics_move
from lbgnas.errors import LbgnasError
from lbgnas.grouping.hypergradient import Exact

pytestmark = pytest.mark.usefixtures("float64")


def inputs(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def value_and_gradients(call, *tensors):
    leaves = [value.clone().requires_grad_() for value in tensors]
    output = call(*leaves)
    weights = inputs(*output.shape, seed=9)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), leaves)]


def assert_same(first, second, tolerance=1e-11):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.dtype == b.dtype
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance)


CALLS = {
    "batch norm": (
        lambda x, w, b: F.batch_norm(x, None, None, w, b, True, 0.1, 1e-3),
        [(5, 3, 4, 2), (3,), (3,)],
    ),
    "batch norm, flat": (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), [(5, 3), (3,), (3,)]),
    "batch norm, plain": (lambda x: F.batch_norm(x, None, None, training=True), [(5, 3, 4)]),
    "batch norm, below": (
        lambda x, w: torch.batch_norm(x, w, None, None, None, True, 0.1, 1e-5, False),
        [(5, 3, 2, 2), (3,)],
    ),
    "batch norm, evaluation": (
        lambda x, w, b: F.batch_norm(x, torch.arange(3.0), torch.arange(1.0, 4.0), w, b, False),
        [(5, 3, 4), (3,), (3,)],
    ),
    "instance norm": (
        lambda x, w, b: F.instance_norm(x, None, None, w, b, True, 0.1, 1e-3),
        [(5, 3, 4, 2), (3,), (3,)],
    ),
    "instance norm, plain": (lambda x: F.instance_norm(x), [(5, 3, 4)]),
    "instance norm, below": (
        lambda x, w: torch.instance_norm(x, w, None, None, None, True, 0.1, 1e-5, False),
        [(5, 3, 2, 2), (3,)],
    ),
    "instance norm, evaluation": (
        lambda x, w: F.instance_norm(x, torch.arange(3.0), torch.arange(1.0, 4.0), w, use_input_stats=False),
        [(5, 3, 4), (3,)],
    ),
    "layer norm, below": (lambda x, w: torch.layer_norm(x, (4,), w, None, 1e-3, False), [(5, 3, 4), (4,)]),
    "group norm, below": (lambda x, w: torch.group_norm(x, 2, w, None, 1e-3), [(5, 4, 3), (4,)]),
    "softmin": (lambda x: F.softmin(x, 1), [(4, 3, 2)]),
    "layer norm": (lambda x, w, b: F.layer_norm(x, (3, 4), w, b, 1e-3), [(5, 3, 4), (3, 4), (3, 4)]),
    "layer norm, plain": (lambda x: F.layer_norm(x, (4,)), [(5, 3, 4)]),
    "group norm": (lambda x, w, b: F.group_norm(x, 2, w, b, 1e-3), [(5, 4, 3, 2), (4,), (4,)]),
    "group norm, flat": (lambda x: F.group_norm(x, 2), [(5, 6)]),
    "softmax": (lambda x: F.softmax(x, 1), [(4, 3, 2)]),
    "softmax, method": (lambda x: x.softmax(-1), [(4, 3, 2)]),
    "softmax, named": (lambda x: torch.softmax(input=x, dim=0), [(4, 3)]),
    "softmax, module": (lambda x: nn.Softmax(dim=1)(x), [(4, 3)]),
    "log softmax": (lambda x: F.log_softmax(x, 1), [(4, 3, 2)]),
    "log softmax, method": (lambda x: x.log_softmax(dim=-2), [(4, 3, 2)]),
    "log softmax, torch": (lambda x: torch.log_softmax(x, 2), [(4, 3, 2)]),
    "silu": (lambda x: F.silu(x), [(4, 3)]),
    "silu, module": (lambda x: nn.SiLU(inplace=True)(x * 1), [(4, 3)]),
}


@pytest.mark.parametrize("name", CALLS)
def test_composed_forms_equal_torch(name):
    call, shapes = CALLS[name]
    tensors = [inputs(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    expected = value_and_gradients(call, *tensors)
    with BatchStatistics(update=False, composed=True):
        assert_same(value_and_gradients(call, *tensors), expected)
    with BatchStatistics(update=False):
        assert_same(value_and_gradients(call, *tensors), expected, 0)


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("call", [F.softmax, F.log_softmax])
@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 2), (4, 3, 2, 2)])
def test_composed_softmax_without_a_dimension_takes_torchs(call, shape):
    x = inputs(*shape)
    expected = call(x)
    with BatchStatistics(update=False, composed=True):
        assert torch.allclose(call(x), expected)


@pytest.mark.parametrize("call", [F.softmax, F.log_softmax, torch.softmax, torch.Tensor.log_softmax])
def test_composed_softmax_gives_the_type_asked_for(call):
    x = inputs(4, 3).float()
    with BatchStatistics(update=False, composed=True):
        assert call(x, 1, dtype=torch.float64).dtype == torch.float64


@pytest.mark.parametrize("call", [torch.softmax, torch.log_softmax])
def test_composed_softmax_of_huge_values_is_finite(call):
    x = torch.tensor([[1e4, -1e4, 0.0]])
    expected = call(x, 1)
    with BatchStatistics(update=False, composed=True):
        assert torch.equal(call(x, 1), expected)


# Forward mode, then a backward


class Sandwich(nn.Module):
    """A module between layers, behind a scale that plays the architecture."""

    def __init__(self, middle):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.middle = middle
        self.last = nn.Conv2d(4, 3, 1)
        self.alphas = nn.Parameter(inputs(2, seed=5))

    def forward(self, x):
        state = torch.tanh(self.first(x))
        state = self.alphas[0] * state * state + self.alphas[1] * state
        return self.last(self.middle(state)).square().mean((1, 2, 3))


def mixed(middle, composed):
    """Return d<u, grad_S L>/d(alphas, weights of samples) by both modes."""
    torch.manual_seed(0)
    net = Sandwich(middle)
    x = inputs(6, 2, 4, 4)
    weights = {name: p.detach() for name, p in net.named_parameters() if name != "alphas"}
    direction = {name: torch.randn_like(value) for name, value in weights.items()}
    wanted = [net.alphas.detach().requires_grad_(), torch.rand(6).requires_grad_()]

    def loss(own, _):
        with BatchStatistics(update=False, composed=composed):
            return (functional_call(net, {**own, "alphas": wanted[0]}, (x,)) * wanted[1]).sum()

    forward = torch.cat(Exact("forward").mixed(loss, weights, direction, wanted))
    reverse = torch.cat(Exact("reverse").mixed(loss, weights, direction, wanted))
    return forward, reverse


def error(pair):
    return ((pair[0] - pair[1]).norm() / pair[1].norm()).item()


MIDDLES = {
    "batch norm": lambda: nn.BatchNorm2d(4),
    "batch norm, evaluation": lambda: nn.BatchNorm2d(4).eval(),
    "batch norm, no statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "layer norm": lambda: nn.LayerNorm([4, 4, 4]),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "instance norm": lambda: nn.InstanceNorm2d(4, affine=True),
    "rms norm": lambda: nn.RMSNorm([4]),
    "softmax": lambda: nn.Softmax(1),
    "log softmax": lambda: nn.LogSoftmax(1),
    "silu": lambda: nn.SiLU(),
    "max pool": lambda: nn.MaxPool2d(3, 1, 1),
    "average pool": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "relu": lambda: nn.ReLU(),
    "gelu": lambda: nn.GELU(),
}


@pytest.mark.parametrize("name", MIDDLES)
def test_forward_then_backward_equals_double_backward_when_composed(name):
    """An operation that cannot may refuse; what it must not do is give another number."""
    pair = mixed(MIDDLES[name](), composed=True)
    assert pair[1].norm() > 1e-3
    assert error(pair) < 1e-9


def test_fused_batch_norm_is_silently_wrong_forward_then_backward():
    """Why the composed form exists; should torch mend it, the form may go."""
    fused = mixed(nn.BatchNorm2d(4), composed=False)
    composed = mixed(nn.BatchNorm2d(4), composed=True)
    assert torch.allclose(fused[1], composed[1], rtol=1e-9), "double backward is right either way"
    assert error(fused) > 0.01


# Running statistics


def test_update_moves_running_statistics_as_torch_does():
    ours = nn.BatchNorm2d(3)
    theirs = copy.deepcopy(ours)
    for seed in range(3):
        with BatchStatistics(update=True):
            first = ours(inputs(4, 3, 2, 2, seed=seed))
        assert torch.equal(first, theirs(inputs(4, 3, 2, 2, seed=seed)))
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)


def test_composed_update_moves_running_statistics_as_torch_does():
    ours = nn.BatchNorm2d(3, momentum=0.3)
    theirs = copy.deepcopy(ours)
    for seed in range(3):
        with BatchStatistics(update=True, composed=True):
            ours(inputs(4, 3, 2, 2, seed=seed))
        theirs(inputs(4, 3, 2, 2, seed=seed))
    assert_same([ours.running_mean, ours.running_var], [theirs.running_mean, theirs.running_var])


@pytest.mark.parametrize("composed", [False, True])
@pytest.mark.parametrize("rows", [None, 2])
def test_no_update_leaves_running_statistics(composed, rows):
    norm = nn.BatchNorm2d(3)
    with BatchStatistics(update=False, composed=composed, rows=rows):
        norm(inputs(4, 3, 2, 2))
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert torch.equal(norm.running_var, torch.ones(3))


def test_no_update_leaves_every_buffer():
    """With momentum=None the count of batches is the weight of the next one: it is part of the statistics."""
    norm, plain = nn.BatchNorm2d(3, momentum=None), nn.BatchNorm2d(3, momentum=None)
    for seed in range(3):
        x = inputs(4, 3, 2, 2, seed=seed)
        norm(x)
        plain(x)
        with BatchStatistics(update=False):
            norm(inputs(4, 3, 2, 2, seed=50 + seed))
    for name, value in plain.state_dict().items():
        assert torch.allclose(norm.state_dict()[name], value), name


@pytest.mark.parametrize("composed", [False, True])
def test_evaluation_mode_normalises_by_running_statistics(composed):
    norm = nn.BatchNorm2d(3)
    norm(inputs(4, 3, 2, 2))
    norm.eval()
    before = copy.deepcopy(norm.state_dict())
    x = inputs(4, 3, 2, 2, seed=1)
    expected = norm(x)
    with BatchStatistics(update=True, composed=composed, rows=1):
        assert torch.equal(norm(x), expected)
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())


@pytest.mark.parametrize("composed", [False, True])
@pytest.mark.parametrize("size", [(), (1, 1)])
def test_one_value_per_channel_leaves_finite_running_statistics(composed, size):
    """An expert that gets one sample in a batch: no variance is known, and evaluation must not become NaN."""
    norm = nn.BatchNorm2d(3) if size else nn.BatchNorm1d(3)
    with BatchStatistics(update=True, composed=composed):
        assert norm(inputs(1, 3, *size)).abs().max() < 1e-9
    assert torch.isfinite(norm.running_mean).all()
    assert torch.isfinite(norm.running_var).all()


@pytest.mark.parametrize("composed", [False, True])
def test_instance_norms_follow_the_same_policy(composed):
    norm, alone = (nn.InstanceNorm2d(3, track_running_stats=True) for _ in range(2))
    x = inputs(5, 3, 2, 2)
    with BatchStatistics(update=False, composed=composed):
        norm(x)
    assert not norm.running_mean.any()
    with BatchStatistics(update=True, composed=composed, rows=2):
        output = norm(x)
    assert torch.allclose(output[:2], alone(x[:2]))
    assert_same([norm.running_mean, norm.running_var], [alone.running_mean, alone.running_var])


def test_functions_without_a_composed_form_are_refused():
    with BatchStatistics(update=False, composed=True), pytest.raises(LbgnasError, match="native_layer_norm"):
        torch.native_layer_norm(inputs(2, 3), [3], None, None, 1e-5)


def test_additions_that_count_nothing_stay():
    number, count, values = torch.tensor(2.0), torch.tensor(2), torch.zeros(2, dtype=torch.long)
    with BatchStatistics(update=False):
        number.add_(1)
        count.add_(3)
        values.add_(1)
        count.add_(torch.tensor(4))
    assert (number.item(), count.item(), values.tolist()) == (3.0, 9, [1, 1])


@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("inner", [False, True])
def test_nested_contexts_count_a_batch_once_or_not_at_all(outer, inner):
    norm = nn.BatchNorm2d(3)
    with BatchStatistics(update=outer), BatchStatistics(update=inner, composed=True):
        norm(inputs(4, 3, 2, 2))
    assert norm.num_batches_tracked.item() == int(outer and inner)
    assert bool(norm.running_mean.any()) == (outer and inner)


# Rows


@pytest.mark.parametrize("composed", [False, True])
def test_rows_take_statistics_of_the_first_samples_only(composed):
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, -1.0]))
        norm.bias.copy_(torch.tensor([0.5, 0.0, 1.0]))
    x = inputs(7, 3, 2, 2)
    own = x[:4]
    mean = own.mean((0, 2, 3))[:, None, None]
    var = own.var((0, 2, 3), unbiased=False)[:, None, None]
    weight, bias = norm.weight[:, None, None], norm.bias[:, None, None]
    alone = copy.deepcopy(norm)
    with BatchStatistics(update=True, composed=composed, rows=4):
        output = norm(x)
    assert torch.allclose(output, (x - mean) / (var + 1e-5).sqrt() * weight + bias)
    assert torch.allclose(output[:4], alone(own)), "the first samples do not notice the others"
    assert_same([norm.running_mean, norm.running_var], [alone.running_mean, alone.running_var])


def test_gradients_reach_the_statistics_of_rows_only():
    x = inputs(5, 3, 2, 2).requires_grad_()
    with BatchStatistics(update=False, rows=2):
        output = nn.BatchNorm2d(3)(x)
    (gradient,) = torch.autograd.grad(output[3].square().sum(), x)
    assert gradient[:2].any()
    assert gradient[3].any()
    assert not gradient[[2, 4]].any()


@pytest.mark.parametrize("rows", [5, 9])
def test_as_many_rows_as_samples_is_no_restriction(rows):
    x = inputs(5, 3, 2, 2)
    expected = nn.BatchNorm2d(3)(x)
    with BatchStatistics(update=False, rows=rows):
        assert torch.equal(nn.BatchNorm2d(3)(x), expected)


# Nesting


def test_nothing_is_active_outside_and_after_an_error():
    assert running_statistics_move()
    with contextlib.suppress(KeyError), BatchStatistics(update=False):
        assert not running_statistics_move()
        raise KeyError
    assert running_statistics_move()
    norm = nn.BatchNorm2d(3)
    norm(inputs(4, 3, 2, 2))
    assert norm.running_mean.any()


def test_the_outer_context_is_back_after_the_inner_one():
    norm = nn.BatchNorm2d(3)
    with BatchStatistics(update=False):
        with BatchStatistics(update=False, composed=True):
            assert not running_statistics_move()
        norm(inputs(4, 3, 2, 2))
        assert not running_statistics_move()
    assert not norm.running_mean.any()


@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("inner", [False, True])
def test_nested_contexts_agree_with_what_modules_are_told(outer, inner):
    """Modules that keep their own statistics ask `running_statistics_move`; batch norms must do the same."""
    norm = nn.BatchNorm2d(3)
    with BatchStatistics(update=outer), BatchStatistics(update=inner):
        told = running_statistics_move()
        norm(inputs(4, 3, 2, 2))
    assert bool(norm.running_mean.any()) == told


def test_forward_mode_through_the_composed_batch_norm_alone():
    """The tangent is the directional derivative of torch's own batch norm."""
    x, tangent = inputs(4, 3, 2, 2), inputs(4, 3, 2, 2, seed=1)
    with BatchStatistics(update=False, composed=True), forward_ad.dual_level():
        output = forward_ad.unpack_dual(nn.BatchNorm2d(3)(forward_ad.make_dual(x, tangent))).tangent
    step = 1e-6
    ahead, behind = (nn.BatchNorm2d(3)(x + sign * step * tangent) for sign in (1, -1))
    assert torch.allclose(output, (ahead - behind) / (2 * step), atol=1e-7)
