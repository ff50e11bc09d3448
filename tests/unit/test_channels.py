"""Channels side by side: torch's value and derivatives of every kind, and gradients that are dense."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

import lbgnas.grouping.hypergradient  # noqa: F401 - loads torch's forward-mode formulas without its warning
from lbgnas.operations.channels import join_channels

pytestmark = pytest.mark.usefixtures("float64")


def parts():
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(2, channels, 3, 3, generator=draw).requires_grad_() for channels in (2, 3)]


def test_all_derivatives_are_exact():
    assert torch.equal(join_channels(*parts()), torch.cat(parts(), 1))
    assert torch.autograd.gradcheck(join_channels, parts(), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(join_channels, parts(), check_fwd_over_rev=True, check_rev_over_rev=True)


def test_a_tangent_of_one_part_alone_reaches_its_channels_alone():
    one, other = parts()
    with forward_ad.dual_level():
        moved = join_channels(forward_ad.make_dual(one, torch.ones_like(one)), other)
        along = forward_ad.unpack_dual(moved).tangent
    assert torch.equal(along, torch.cat([torch.ones_like(one), torch.zeros_like(other)], 1))


@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
def test_gradients_are_dense_and_in_the_order_of_the_images(order):
    given = [part.detach().contiguous(memory_format=order).requires_grad_() for part in parts()]
    slope = torch.ones(2, 5, 3, 3).contiguous(memory_format=order)
    found = torch.autograd.grad(join_channels(*given), given, slope)
    assert all(value.is_contiguous(memory_format=order) for value in found)
