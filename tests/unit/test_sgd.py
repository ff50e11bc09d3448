from __future__ import annotations

import pytest
import torch
from torch import nn

from lbgnas.grouping.sgd import Sgd, clip_factor, norm, sgd_step, through_step

pytestmark = pytest.mark.usefixtures("float64")

SHAPES = {"matrix": (4, 3), "vector": (5,), "scalar": ()}
GRID = [
    Sgd(0.3, momentum, decay, clip) for momentum in (0.0, 0.9) for decay in (0.0, 0.05) for clip in (None, 0.5, 1e6)
]


def tensors(seed, size=1.0):
    g = torch.Generator().manual_seed(seed)
    return {name: size * torch.randn(shape, generator=g) for name, shape in SHAPES.items()}


def flat(parts):
    return torch.cat([value.flatten() for value in parts.values()])


def test_norm_is_over_all_tensors_together():
    assert norm(tensors(0)).item() == pytest.approx(flat(tensors(0)).norm().item(), rel=1e-14)


@pytest.mark.parametrize("settings", GRID)
def test_sgd_step_equals_torch_over_several_steps(settings):
    weights = tensors(0)
    buffers = {name: torch.zeros_like(value) for name, value in weights.items()}
    parameters = {name: nn.Parameter(value.clone()) for name, value in weights.items()}
    torchs = torch.optim.SGD(
        parameters.values(), settings.rate, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    for step in range(6):
        gradient = tensors(10 + step, size=2.0 ** (step - 4))  # the clip of 0.5 acts in some steps only
        before = flat(weights).clone(), flat(gradient).clone(), flat(buffers).clone()
        result = sgd_step(weights, gradient, buffers, settings)
        assert all(torch.equal(a, flat(b)) for a, b in zip(before, (weights, gradient, buffers), strict=True)), (
            "edited in place"
        )
        weights, buffers = result
        for name, parameter in parameters.items():
            parameter.grad = gradient[name].clone()
        if settings.clip is not None:
            nn.utils.clip_grad_norm_(parameters.values(), settings.clip)
        torchs.step()
        for name, parameter in parameters.items():
            assert torch.allclose(weights[name], parameter, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(("size", "acts"), [(0.01, False), (10.0, True)])
def test_clip_factor_is_torchs(size, acts):
    gradient = tensors(1, size)
    factor = clip_factor(gradient, 1.0)
    assert (factor < 1) == acts
    expected = min(1.0, 1.0 / (flat(gradient).norm().item() + 1e-6))
    assert factor.item() == pytest.approx(expected, rel=1e-14)
    assert clip_factor(gradient, None).item() == 1


@pytest.mark.parametrize("size", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("settings", GRID)
def test_through_step_equals_autograd(settings, size):
    weights, buffers, covector = tensors(0), tensors(1), tensors(2)
    gradient = {name: value.requires_grad_() for name, value in tensors(3, size).items()}
    total = torch.sqrt(sum((g * g).sum() for g in gradient.values()))
    factor = 1.0
    if settings.clip is not None and settings.clip < total + 1e-6:
        factor = settings.clip / (total + 1e-6)
    outcome = 0
    for name, g in gradient.items():
        moved = settings.momentum * buffers[name] + factor * g + settings.weight_decay * weights[name]
        outcome = outcome + (covector[name] * (weights[name] - settings.rate * moved)).sum()
    expected = torch.autograd.grad(outcome, list(gradient.values()))
    actual = through_step(covector, {name: g.detach() for name, g in gradient.items()}, settings)
    for name, value in zip(gradient, expected, strict=True):
        assert torch.allclose(actual[name], -value, rtol=1e-11, atol=1e-15)


def test_through_step_where_the_clip_acts_has_almost_nothing_along_the_gradient():
    gradient = tensors(4, 100.0)
    direction = through_step(gradient, gradient, Sgd(1.0, clip=1.0))
    assert norm(direction) < 1e-7


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_zero_gradient_is_no_special_case(clip):
    weights, covector = tensors(0), tensors(1)
    zeros = {name: torch.zeros_like(value) for name, value in weights.items()}
    new, _ = sgd_step(weights, zeros, zeros, Sgd(0.1, clip=clip))
    assert torch.equal(flat(new), flat(weights))
    assert torch.allclose(flat(through_step(covector, zeros, Sgd(0.1, clip=clip))), 0.1 * flat(covector))
