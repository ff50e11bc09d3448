"""Pointwise convolutions with batch norm as products of matrices.

Batch norm of y = W x needs no y: its mean is W m and its variance the diagonal of W cov(x) W^T, m and cov(x) being the
mean and the covariance of x over samples and pixels. So the normalised output is one product with a scaled W and a
bias, and what is kept for the backward is x alone. All maps here are built of products, so derivatives of every order,
forward mode included, are exact.

Blocks may be bfloat16. Statistics, and what is made of them, then are float32; only products with blocks are taken in
the blocks' type.

Blocks are tensors (blocks, channels, positions) in either of two orders in memory: positions by blocks by channels
(channels-last images), or blocks or channels first with positions last. Results come in the order of what they stem
from.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from lbgnas.precision import exact, exact_type

EPS = 1e-5
"""Of every batch norm in the published supernets."""


def average(x: Tensor) -> Tensor:
    """Return the mean over positions, (blocks, channels, 1), exact."""
    return x.mean(2, keepdim=True, dtype=exact_type(x))


def total(x: Tensor) -> Tensor:
    """Return the sum over positions, (blocks, channels, 1), exact."""
    return x.sum(2, keepdim=True, dtype=exact_type(x))


def crossed(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right^T, the sum over positions of products of channels, exact."""
    return torch.bmm(exact(left), exact(right).transpose(1, 2))


def pixels_first(blocks: Tensor) -> bool:
    """Return whether the channels of a pixel lie side by side in memory."""
    return blocks.stride(1) == 1 and blocks.shape[1] > 1


def product(left: Tensor, right: Tensor, bias: Tensor | None, like: Tensor, apart: bool) -> Tensor:
    """Return left @ right + bias, (blocks, rows, positions), in the order of `like`.

    With `apart` every block is a piece of memory of its own; else pixels come first where `like` has them first. The
    result has the type of `right`.
    """
    left = left.to(right.dtype)
    if not pixels_first(like):
        result = torch.bmm(left, right)
    elif apart or torch.is_grad_enabled():
        result = torch.bmm(right.transpose(1, 2), left.transpose(1, 2)).transpose(1, 2)
    else:
        memory = right.new_empty(right.shape[2], right.shape[0], left.shape[1])
        torch.bmm(right.transpose(1, 2), left.transpose(1, 2), out=memory.transpose(0, 1))
        result = memory.permute(1, 2, 0)
    # In place: torch's product with a bias first writes the bias everywhere, twice.
    return result if bias is None else result.add_(bias)


def add_product(so_far: Tensor, weight: Tensor, block: Tensor) -> None:
    """Add weight @ block to `so_far` in place."""
    weight = weight.to(block.dtype)
    if pixels_first(so_far):
        so_far.transpose(1, 2).baddbmm_(block.transpose(1, 2), weight.transpose(1, 2))
    else:
        so_far.baddbmm_(weight, block)


class _Moments(Function):
    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean(2, keepdim=True)
        square = mean @ mean.transpose(1, 2)
        return mean, torch.baddbmm(square, x, x.transpose(1, 2), beta=-1, alpha=1 / x.shape[2])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0], output[0])
        ctx.save_for_forward(inputs[0], output[0])

    @staticmethod
    def backward(ctx: Any, to_mean: Tensor, to_covariance: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        share = 1 / x.shape[2]
        both = (to_covariance + to_covariance.transpose(1, 2)) * share
        return product(both, x, to_mean * share - both @ mean, x, apart=False)

    @staticmethod
    def jvp(ctx: Any, along: Tensor) -> tuple[Tensor, Tensor]:
        x, mean = ctx.saved_tensors
        mean_along = along.mean(2, keepdim=True)
        one = torch.bmm(along, x.transpose(1, 2)) / x.shape[2] - mean_along @ mean.transpose(1, 2)
        return mean_along, one + one.transpose(1, 2)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (blocks, channels, 1) and the covariance (blocks, channels, channels) over the positions."""
    found: tuple[Tensor, Tensor] = _Moments.apply(exact(x))
    return found


def scaled(weight: Tensor, mean: Tensor, covariance: Tensor, scale: Tensor | None) -> tuple[Tensor, ...]:
    """Return (W', b, mean, variance) with W' x + b = scale * (W x - mean) / sqrt(variance + eps).

    Args:
        weight: W, (blocks, channels out, channels in).
        mean: of x, (blocks, channels in, 1).
        covariance: of x, (blocks, channels in, channels in).
        scale: (blocks, 1, 1), or None for 1.
    """
    centre = weight @ mean
    variance = ((weight @ covariance) * weight).sum(2, keepdim=True).clamp_min(0)
    return (*fixed(weight, centre, variance, scale), centre, variance)


def fixed(weight: Tensor, centre: Tensor, variance: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return (W', b) for given statistics of W x, (blocks, channels out, 1) each."""
    factor = (variance + EPS).rsqrt()
    if scale is not None:
        factor = factor * scale
    return weight * factor, -centre * factor


class _Products(Function):
    @staticmethod
    def forward(apart: bool, bias: Tensor, *pairs: Tensor) -> Tensor:
        found = None
        for weight, x in zip(pairs[::2], pairs[1::2], strict=True):
            if found is None:
                found = product(weight, x, bias, x, apart)
            else:
                add_product(found, weight, x)
        assert found is not None
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.apart = inputs[0]
        ctx.save_for_backward(*inputs[2:])
        ctx.save_for_forward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        pairs, needs = ctx.saved_tensors, ctx.needs_input_grad
        found: list[Tensor | None] = [None, total(slope) if needs[1] else None]
        for place in range(0, len(pairs), 2):
            weight, x = pairs[place : place + 2]
            found.append(crossed(slope, x) if needs[2 + place] else None)
            found.append(product(weight.transpose(1, 2), slope, None, x, apart=False) if needs[3 + place] else None)
        return tuple(found)

    @staticmethod
    def jvp(ctx: Any, _: Any, along_bias: Tensor | None, *along: Tensor | None) -> Tensor:
        pairs = ctx.saved_tensors
        moved: list[Tensor] = []
        for place in range(0, len(pairs), 2):
            weight, x = pairs[place : place + 2]
            along_weight, along_x = along[place : place + 2]
            if along_weight is not None:
                moved += [along_weight, x]
            if along_x is not None:
                moved += [weight, along_x]
        if along_bias is None:
            along_bias = pairs[0].new_zeros(pairs[0].shape[0], pairs[0].shape[1], 1)
        if not moved:
            return along_bias.to(pairs[1].dtype).expand(-1, -1, pairs[1].shape[2])
        return products(along_bias, *moved, apart=ctx.apart)


def products(bias: Tensor, *pairs: Tensor, apart: bool) -> Tensor:
    """Return bias + the sum of W_i x_i over the pairs W_1, x_1, W_2, x_2 ..., (blocks, channels out, positions).

    Args:
        bias: (blocks, channels out, 1).
        pairs: W_i (blocks, channels out, channels in) and x_i (blocks, channels in, positions).
        apart: whether every block of the result is a piece of memory of its own.
    """
    found: Tensor = _Products.apply(apart, bias, *pairs)
    return found
