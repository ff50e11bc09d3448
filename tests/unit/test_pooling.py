from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import lbgnas.grouping.hypergradient  # noqa: F401 - loads torch's forward-mode formulas without its warning
from lbgnas.operations.pooling import max_pool


@pytest.mark.parametrize("side", [4, 16, 126, 127])
@pytest.mark.parametrize("stride", [1, 2])
def test_it_is_torchs_own_in_value_gradient_and_tangent(side, stride):
    draw = torch.Generator().manual_seed(side)
    x, along = (torch.randn(2, 3, side, side, generator=draw).relu() for _ in range(2))  # zeros: ties
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    ours, expected = (run(x) for run in (lambda x: max_pool(x, stride), lambda x: F.max_pool2d(x, 3, stride, 1)))
    assert torch.equal(ours, expected)
    slope = torch.randn(ours.shape, generator=draw)
    mine, theirs = (torch.autograd.grad(value, x, slope)[0] for value in (ours, expected))
    assert torch.equal(mine, theirs)
    _, tangent = torch.func.jvp(lambda x: max_pool(x, stride), (x.detach(),), (along,))
    _, known = torch.func.jvp(lambda x: F.max_pool2d(x, 3, stride, 1), (x.detach(),), (along,))
    assert torch.equal(tangent, known)


@pytest.mark.parametrize("stride", [1, 2])
def test_derivatives_of_every_order(stride):
    x = torch.randperm(2 * 2 * 6 * 6, generator=torch.Generator().manual_seed(0)).double().view(2, 2, 6, 6)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: max_pool(x, stride), x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: max_pool(x, stride) ** 2, x, check_fwd_over_rev=True)


def test_places_take_a_byte_each():
    kept = []
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        max_pool(x, 1)
    assert [value.dtype for value in kept] == [torch.int8]
