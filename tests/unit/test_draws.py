"""Hypergradients of experts that draw numbers: all passes of a step draw the same."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from lbgnas.grouping.bilevel import bilevel_gradients
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.hypergradient import Exact
from lbgnas.grouping.sgd import Sgd
from lbgnas.grouping.unrolled import Levels, unrolled_step
from lbgnas.networks.gate import SmallGate
from lbgnas.networks.supernet import Supernet
from lbgnas.space import SearchSpace

pytestmark = pytest.mark.usefixtures("float64")

SPACE = SearchSpace(
    name="drawing",
    nodes=2,
    concat=(2, 3),
    operations=[
        ["skip_connect", "sep_conv_3x3", "noise"],
        ["skip_connect", "avg_pool_3x3"],
        ["skip_connect", "dil_conv_3x3"],
        ["noise", "sep_conv_3x3"],
        ["skip_connect", "none"],
    ],
    auxiliary_skip="skip",
)


def start(seed):
    torch.manual_seed(0)
    modules = [Supernet(SPACE, 3, 4, 2) for _ in range(2)]
    for module in modules:
        module.skip_dropout, module.auxiliary_weight = 0.4, 0.7
        module.train()
    experts = Experts(modules, modules[0].architecture_parameters())
    experts.seed = seed
    gate = SmallGate(3, 2, 4)
    batches = [(torch.randn(8, 3, 8, 8), torch.tensor([0, 1] * 4), torch.arange(8)) for _ in range(2)]
    return experts, gate, torch.randn(8, 2), batches


LEVELS = Levels(gate=Sgd(0.1), experts=Sgd(0.5, 0.9, 3e-4, 5.0))


def grouped(seed, mode):
    experts, gate, logits, (train, validation) = start(seed)
    levels = dataclasses.replace(LEVELS, hypergradient=Exact(mode))
    found = unrolled_step(experts, gate, logits, train, validation, levels)
    own = [value.flatten() for k in sorted(found.architecture_gradients) for value in
           found.architecture_gradients[k].values()]  # fmt: skip
    return torch.cat([found.assignment_gradient.flatten(), *own])


def alone(seed, mode):
    experts, *_, (train, validation) = start(seed)
    levels = dataclasses.replace(LEVELS, hypergradient=Exact(mode))
    found, *_ = bilevel_gradients(experts, train, validation, levels, None)
    return torch.cat([value.flatten() for value in found.values()])


@pytest.mark.parametrize("way", [grouped, alone])
def test_forward_and_reverse_differentiate_the_same_step(way):
    forward, reverse = way(7, "forward"), way(7, "reverse")
    assert torch.isfinite(forward).all()
    assert torch.allclose(forward, reverse, rtol=1e-8, atol=1e-10 * float(forward.abs().max()))
    assert torch.equal(forward, way(7, "forward")), "a seed repeats"
    other = way(8, "forward")
    assert not torch.allclose(forward, other, rtol=1e-2), "the seed matters"


def through_the_step(seed, along):
    """L_val(S'(A + h d), A + h d) for small h, S' from the same draws: its slope along d by central differences."""
    experts, *_, (train, validation) = start(seed)
    weights, architecture = experts.weights(0), experts.architecture(0)
    values = []
    for step in (1e-6, -1e-6):
        parts = along.split([value.numel() for value in architecture.values()])
        alphas = {
            name: value + step * part.view_as(value)
            for (name, value), part in zip(architecture.items(), parts, strict=True)
        }
        leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
        loss = F.cross_entropy(experts.call(0, leaves, alphas, train[0])[0], train[1])
        slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        settings = LEVELS.experts
        ends = {
            name: value - settings.rate * (slope + settings.weight_decay * value)
            for (name, value), slope in zip(weights.items(), slopes, strict=True)
        }
        values.append(F.cross_entropy(experts.call(0, ends, alphas, validation[0])[0], validation[1]))
    return float(values[0] - values[1]) / 2e-6


def test_the_derivative_is_that_of_the_step_with_its_draws():
    found = alone(7, "forward")
    torch.manual_seed(1)
    along = torch.randn(len(found))
    expected = through_the_step(7, along)
    assert float(found @ along) == pytest.approx(expected, rel=1e-5)
    unseeded = alone(None, "forward")
    assert float(unseeded @ along) != pytest.approx(expected, rel=1e-2), "why the seed is there"


def test_drawing_inside_leaves_the_state_outside():
    experts, *_, (train, _) = start(3)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    experts.call(0, experts.weights(0), experts.architecture(0), train[0])
    assert torch.equal(torch.rand(3), expected)
