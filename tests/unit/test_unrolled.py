from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from lbgnas.batch_statistics import BatchStatistics
from lbgnas.errors import LbgnasError
from lbgnas.grouping.adaptation import DISTANCES, Adaptation
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.hypergradient import Exact, FiniteDifference, FirstOrder
from lbgnas.grouping.sgd import Sgd
from lbgnas.grouping.stages import second_level
from lbgnas.grouping.unrolled import Levels, unrolled_step
from tests.toys import ToyExpert, brute_force, toy_batch, toy_gate


def problem(groups, seed=0, batch=14):
    torch.manual_seed(seed)
    experts = Experts([ToyExpert() for _ in range(groups)], architecture=["alphas"], features="head")
    gate = toy_gate(groups)
    z = torch.randn(batch, groups)
    gate_buffers = {n: 0.1 * torch.randn_like(p) for n, p in gate.named_parameters()}
    buffers = {k: {n: 0.1 * torch.randn_like(v) for n, v in experts.weights(k).items()} for k in range(groups)}
    return experts, gate, z, toy_batch(seed + 1, batch), toy_batch(seed + 2, 11), gate_buffers, buffers


PLAIN = Levels(gate=Sgd(0.7), experts=Sgd(0.5))
FULL = Levels(gate=Sgd(0.7, 0.9, 1e-3, clip=0.05), experts=Sgd(0.5, 0.9, 3e-4, clip=0.2), mutual_information=0.7)


def relative(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("adaptation", [None, *DISTANCES])
@pytest.mark.parametrize("levels", [PLAIN, FULL], ids=["plain", "clip-momentum-decay-information"])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_hypergradients_equal_brute_force(float64, groups, levels, adaptation, mode):
    chosen = None if adaptation is None else Adaptation(DISTANCES[adaptation], 0.3)
    levels = dataclasses.replace(levels, adaptation=chosen, hypergradient=Exact(mode))
    if groups == 1:  # the gate's gradient is zero, where the norm has no derivative
        levels = dataclasses.replace(levels, gate=levels.gate._replace(clip=None))
    experts, gate, z, train, validation, gate_buffers, buffers = problem(groups)
    expected_z, expected_a, loss = brute_force(experts, gate, z, train, validation, levels, gate_buffers, buffers)
    result = unrolled_step(experts, gate, z, train, validation, levels, gate_buffers, buffers)
    assert sum(1 for g in result.losses.train_groups if g) >= min(2, groups), "the problem must use several experts"
    assert abs(result.losses.validation - loss) < 1e-12
    if groups == 1:
        assert not result.assignment_gradient.any()
        assert expected_z.abs().max() < 1e-15
    else:
        assert expected_z.norm() > 1e-7
        assert relative(result.assignment_gradient, expected_z) < 1e-10
    for index, expected in enumerate(expected_a):
        if expected is None:
            assert index not in result.architecture_gradients
        else:
            assert expected.norm() > 1e-6
            assert relative(result.architecture_gradients[index]["alphas"], expected) < 1e-10


def test_second_order_terms_matter(float64):
    """The comparison above would not notice a missing term that is negligible; these are not."""
    experts, gate, z, *rest = problem(2)
    results = {
        way: unrolled_step(experts, gate, z, rest[0], rest[1], dataclasses.replace(FULL, hypergradient=way))
        for way in (Exact(), FirstOrder())
    }
    exact, first = results.values()
    assert relative(first.assignment_gradient, exact.assignment_gradient) > 1e-3
    assert relative(first.architecture_gradients[0]["alphas"], exact.architecture_gradients[0]["alphas"]) > 1e-3


def test_finite_difference_converges_to_exact_between_kinks(float64):
    experts, gate, z, train, validation, *_ = problem(2)
    run = partial(unrolled_step, experts, gate, z, train, validation)
    exact = run(dataclasses.replace(FULL, hypergradient=Exact()))
    close = run(dataclasses.replace(FULL, hypergradient=FiniteDifference(1e-6)))
    assert relative(close.assignment_gradient, exact.assignment_gradient) < 1e-6
    for index in exact.architecture_gradients:
        assert (
            relative(close.architecture_gradients[index]["alphas"], exact.architecture_gradients[index]["alphas"])
            < 1e-5
        )


@pytest.mark.parametrize("adaptation", [None, "mmd"])
@pytest.mark.parametrize("mixture", [False, True], ids=["routed", "mixture"])
@pytest.mark.parametrize("groups", [2, 3])
def test_mixture_and_class_weights_equal_brute_force(float64, groups, mixture, adaptation):
    experts, gate, z, train, validation, gate_buffers, buffers = problem(groups)
    levels = dataclasses.replace(
        FULL,
        adaptation=None if adaptation is None else Adaptation(DISTANCES[adaptation], 0.3),
        mixture=mixture,
        class_weights=torch.rand(groups, 3) + 0.5,
    )
    expected_z, expected_a, loss = brute_force(experts, gate, z, train, validation, levels, gate_buffers, buffers)
    result = unrolled_step(experts, gate, z, train, validation, levels, gate_buffers, buffers)
    assert abs(result.losses.validation - loss) < 1e-12
    assert relative(result.assignment_gradient, expected_z) < 1e-10
    for index, expected in enumerate(expected_a):
        if expected is not None:
            assert relative(result.architecture_gradients[index]["alphas"], expected) < 1e-10
    plain = unrolled_step(
        experts, gate, z, train, validation, dataclasses.replace(levels, class_weights=None), gate_buffers, buffers
    )
    assert relative(plain.assignment_gradient, result.assignment_gradient) > 1e-3


def test_float32_is_close(float64):
    experts, gate, z, train, validation, *_ = problem(2)
    exact = unrolled_step(experts, gate, z, train, validation, PLAIN)
    small = Experts([m.float() for m in experts.modules], architecture=["alphas"], features="head")
    single = [(x.float(), y, ids) for x, y, ids in (train, validation)]
    result = unrolled_step(small, gate.float(), z.float(), *single, PLAIN)
    assert relative(result.assignment_gradient.double(), exact.assignment_gradient) < 1e-4


def test_relabelling_permutes_and_changes_nothing_else(float64):
    experts, gate, z, train, validation, gate_buffers, buffers = problem(3)
    permutation = [2, 0, 1]
    levels = dataclasses.replace(FULL, adaptation=Adaptation(DISTANCES["mmd"], 0.2))
    first = unrolled_step(experts, gate, z, train, validation, levels, gate_buffers, buffers)
    with torch.no_grad():
        gate[-1].weight.copy_(gate[-1].weight[permutation].clone())
        gate[-1].bias.copy_(gate[-1].bias[permutation].clone())
    swapped_buffers = {n: b[permutation] if n.startswith("4.") else b for n, b in gate_buffers.items()}
    renamed = Experts([experts.modules[k] for k in permutation], architecture=["alphas"], features="head")
    second = unrolled_step(
        renamed, gate, z[:, permutation], train, validation, levels, swapped_buffers,
        {new: buffers[old] for new, old in enumerate(permutation)},
    )  # fmt: skip
    assert torch.allclose(second.assignment_gradient, first.assignment_gradient[:, permutation], rtol=1e-10)
    for new, old in enumerate(permutation):
        assert second.losses.train_groups[new] == first.losses.train_groups[old]
        if old in first.experts:
            for name, value in first.experts[old].items():
                assert torch.allclose(second.experts[new][name], value, rtol=1e-10)
        if old in first.architecture_gradients:
            expected = first.architecture_gradients[old]["alphas"]
            assert torch.allclose(second.architecture_gradients[new]["alphas"], expected, rtol=1e-9)


def test_weight_zero_equals_no_adaptation_and_is_its_limit(float64):
    experts, gate, z, train, validation, *_ = problem(2)
    plain = unrolled_step(experts, gate, z, train, validation, PLAIN)
    for weight, tolerance in ((0.0, 0.0), (1e-9, 1e-6)):
        levels = dataclasses.replace(PLAIN, adaptation=Adaptation(DISTANCES["mmd"], weight))
        other = unrolled_step(experts, gate, z, train, validation, levels)
        gap = (other.assignment_gradient - plain.assignment_gradient).abs().max()
        assert gap <= tolerance * plain.assignment_gradient.abs().max()
        for index, weights in plain.experts.items():
            for name, value in weights.items():
                assert (other.experts[index][name] - value).abs().max() <= tolerance


def test_every_sample_passes_one_expert_in_stages_two_and_three(float64):
    experts, gate, z, train, validation, *_ = problem(3)
    seen = []
    for module in experts.modules:
        module.register_forward_pre_hook(lambda m, args: seen.append(len(args[0])))
    levels = dataclasses.replace(PLAIN, hypergradient=FirstOrder())
    unrolled_step(experts, gate, z, train, validation, levels)
    assert sum(seen) == len(train[0]) + len(validation[0])


def test_an_empty_group_contributes_exactly_nothing(float64):
    experts, gate, z, train, validation, *_ = problem(2)
    with torch.no_grad():
        gate[-1].weight.zero_()
        gate[-1].bias.copy_(torch.tensor([50.0, -50.0]))
    before = {n: b.clone() for n, b in experts.modules[1].named_buffers()}
    z = torch.tensor([[3.0, -3.0]]).repeat(len(z), 1)
    result = unrolled_step(experts, gate, z, train, validation, PLAIN)
    assert result.losses.train_groups == [len(z), 0]
    assert 1 not in result.experts
    assert 1 not in result.architecture_gradients
    assert all(torch.equal(before[n], b) for n, b in experts.modules[1].named_buffers())
    assert torch.isfinite(result.losses.experts)


def test_running_statistics_move_once(float64):
    experts, gate, z, train, validation, *_ = problem(2)
    result = unrolled_step(experts, gate, z, train, validation, PLAIN)
    module = experts.modules[0]
    mean = module.norm.running_mean.clone()
    rows = torch.zeros(len(z), dtype=torch.bool)
    with torch.no_grad():
        stepped = torch.func.functional_call(gate, result.gate, (train[0],))
        rows = stepped.argmax(1) == 0
        expected = 0.1 * module.first(train[0][rows]).mean((0, 2, 3))
    assert torch.allclose(mean, expected, rtol=1e-12)


def directional_case():
    torch.manual_seed(0)
    gate = toy_gate(3)
    weights = {name: value.detach() for name, value in gate.named_parameters()}
    direction = {name: torch.randn_like(value) for name, value in weights.items()}
    x = torch.randn(6, 2, 5, 5)

    def output(own):
        with BatchStatistics(update=False, composed=True):
            return torch.func.functional_call(gate, own, (x,)).log_softmax(1)[:, 1]

    return output, weights, direction


@pytest.mark.parametrize("way", [Exact, FirstOrder])
def test_directional_derivatives_of_both_modes_agree(float64, way):
    forward, reverse = (way(mode).directional(*directional_case()) for mode in ("forward", "reverse"))
    assert forward.norm() > 0.1
    assert torch.allclose(forward, reverse, rtol=1e-12)
    close = FiniteDifference(1e-5).directional(*directional_case())
    assert torch.allclose(forward, close, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-30, 1e-20])
def test_finite_differences_along_next_to_nothing_are_next_to_nothing(size, dtype):
    weights = {"w": torch.ones(3, dtype=dtype)}
    direction = {"w": size * torch.tensor([1.0, -1.0, 2.0], dtype=dtype)}
    wanted = [torch.ones(3, dtype=dtype, requires_grad=True)]
    way = FiniteDifference()
    found = way.mixed(lambda own, _: (own["w"] ** 2 * wanted[0]).sum(), weights, direction, wanted)
    slopes = way.directional(lambda own: own["w"].square(), weights, direction)
    for value in (found[0], slopes):
        assert torch.isfinite(value).all()
        assert value.abs().max() <= 10 * size


class Once(torch.autograd.Function):
    """An operation that knows its backward only."""

    @staticmethod
    def forward(ctx, x):
        return x.exp()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize("way", [Exact(), FirstOrder()])
def test_a_gate_without_forward_mode_is_refused_in_a_sentence(float64, way):
    weights = {"w": torch.ones(3)}
    with pytest.raises(LbgnasError, match=rf"the gate holds.*{type(way).__name__}\(mode='reverse'\)"):
        way.directional(lambda own: Once.apply(own["w"]), weights, weights)


def test_experts_without_second_derivatives_are_refused_in_a_sentence(float64):
    weights, wanted = {"w": torch.ones(3)}, [torch.ones(3, requires_grad=True)]

    def loss(own, _):
        return (F.glu(torch.cat([own["w"] * wanted[0]] * 2)) ** 2).sum()

    with pytest.raises(LbgnasError, match=r"the experts hold.*use Exact\(mode='reverse'\)"):
        Exact().mixed(loss, weights, weights, wanted)
    with pytest.raises(LbgnasError, match=r"mode 'reverse'.*use FiniteDifference"):
        Exact("reverse").mixed(lambda own, _: F.hardsigmoid(own["w"] * wanted[0]).sum(), weights, weights, wanted)


def test_what_does_not_depend_on_the_weights_has_no_slope(float64):
    weights, wanted = {"w": torch.ones(3)}, [torch.ones(3, requires_grad=True)]
    for mode in ("forward", "reverse"):
        assert not Exact(mode).mixed(lambda own, _: wanted[0].sum(), weights, weights, wanted)[0].any()
        assert not Exact(mode).directional(lambda own: torch.ones(4), weights, weights).any()


@pytest.mark.parametrize("name", DISTANCES)
def test_one_own_sample_leaves_adaptation_out(float64, name):
    experts, *_ = problem(2)
    samples = toy_batch(5, 6)
    probs = torch.full((6, 2), 0.5)
    arguments = (experts, 0, torch.tensor([3]), samples, experts.weights(0), experts.architecture(0), probs)
    adapted = dataclasses.replace(PLAIN, adaptation=Adaptation(DISTANCES[name], 0.5))
    found = second_level(*arguments, adapted, BatchStatistics(update=False))
    plain = second_level(*arguments, PLAIN, BatchStatistics(update=False))
    assert found[1] == 0
    assert torch.equal(found[0], plain[0])
