"""Pointwise convolution, batch norm over the batch and scale (then ReLU, or the sum over kinds) as one function.

The same as `scaled` and `products` one after the other; written as one so that its backward is two products of
matrices into one piece of memory for each input, and nothing but the inputs is kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import Function

from lbgnas.operations.orders import Way
from lbgnas.operations.pairs import normalised_pairs
from lbgnas.operations.products import (
    EPS,
    add_product,
    average,
    crossed,
    moments,
    product,
    products,
    scaled,
    total,
)
from lbgnas.precision import exact
from lbgnas.tangents import taken_apart


class Folded(NamedTuple):
    """W' and b of a normalised W, and what their derivatives need."""

    weight: Tensor
    bias: Tensor
    centre: Tensor
    variance: Tensor
    spread: Tensor
    inverse: Tensor
    factor: Tensor


def _fold(weight: Tensor, mean: Tensor, covariance: Tensor, scale: Tensor | None) -> Folded:
    centre = torch.bmm(weight, mean)
    spread = torch.bmm(weight, covariance)
    variance = (spread * weight).sum(2, keepdim=True).clamp_min_(0)
    inverse = (variance + EPS).rsqrt_()
    factor = inverse if scale is None else inverse * scale
    return Folded(weight * factor, centre.mul(factor).neg_(), centre, variance, spread, inverse, factor)


class _Normalised(Function):
    @staticmethod
    def forward(ctx: Any, way: Way, weight: Tensor, scale: Tensor | None, *blocks: Tensor) -> tuple[Tensor, ...]:
        means, covariances = [], []
        for block in blocks:
            source = way.own(block)
            mean = average(source)
            square = torch.bmm(mean, mean.transpose(1, 2))
            source = exact(source)
            means.append(mean)
            covariances.append(
                torch.baddbmm(square, source, source.transpose(1, 2), beta=-1, alpha=1 / source.shape[2])
            )
        mean = torch.cat(means)
        folded = _fold(weight, mean, torch.cat(covariances), scale)
        counts = [len(block) for block in blocks]
        parts = zip(
            torch.split_with_sizes(folded.weight, counts),
            torch.split_with_sizes(folded.bias, counts),
            blocks,
            strict=True,
        )
        outputs: list[Tensor] = []
        for own_weight, bias, block in parts:
            if way.relu:
                outputs.append(product(own_weight, block, bias, block, apart=False).clamp_min_(0))
            elif not outputs:
                shared = torch.unflatten(folded.bias, 0, (len(blocks), -1)).sum(0)
                outputs.append(product(own_weight, block, shared, block, apart=True))
            else:
                add_product(outputs[0], own_weight, block)
        ctx.way, ctx.count = way, len(blocks)
        rectified = outputs if way.relu else []
        ctx.save_for_backward(weight, scale, mean, *folded, *blocks, *rectified)
        ctx.mark_non_differentiable(folded.centre, folded.variance)
        return (*outputs, folded.centre, folded.variance)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        way, count = ctx.way, ctx.count
        weight, scale, mean, *rest = ctx.saved_tensors
        folded, blocks, rectified = Folded(*rest[:7]), rest[7 : 7 + count], rest[7 + count :]
        if torch.is_grad_enabled():  # a backward through this backward is wanted
            outputs, _, _ = normalised(way, weight, scale, blocks, plain=True)
            inputs = [weight, scale, *blocks]
            wanted = [x for x, needed in zip(inputs, ctx.needs_input_grad[1:], strict=True) if needed]
            known = iter(torch.autograd.grad(outputs, wanted, slopes[: len(outputs)], create_graph=True))
            return None, *(next(known) if needed else None for needed in ctx.needs_input_grad[1:])
        if way.relu:
            given = [
                torch.ops.aten.threshold_backward(slope, out, 0) for slope, out in zip(slopes, rectified, strict=False)
            ]
            to_bias = torch.cat([total(slope) for slope in given])
        else:
            given = [slopes[0]] * count
            to_bias = total(slopes[0]).repeat(count, 1, 1)
        to_folded = torch.cat([crossed(slope, block) for slope, block in zip(given, blocks, strict=True)])
        to_factor = (to_folded * weight).sum(2, keepdim=True) - to_bias * folded.centre
        to_scale = None
        if scale is not None:
            to_scale = (to_factor * folded.inverse).sum((1, 2), keepdim=True)
            to_factor = to_factor * scale
        to_variance = to_factor * folded.inverse.pow(3).mul_(-0.5)
        to_centre = to_bias.mul(folded.factor).neg_()
        to_weight = None
        if ctx.needs_input_grad[1]:
            to_weight = torch.baddbmm(to_folded.mul_(folded.factor), to_centre, mean.transpose(1, 2))
            to_weight = to_weight.addcmul_(folded.spread, to_variance, value=2)
        flipped = weight.transpose(1, 2)
        values = blocks[0].shape[2] // way.batch * way.rows
        both = torch.bmm(flipped, weight * to_variance).mul_(2 / values)
        aside = torch.bmm(flipped, to_centre).div_(values) - torch.bmm(both, mean)
        found = []
        start = 0
        for slope, block in zip(given, blocks, strict=True):
            part = slice(start, start + len(block))
            found.append(_to_block(way, block, slope, folded.weight[part], both[part], aside[part]))
            start += len(block)
        return None, to_weight, to_scale, *found


def _to_block(way: Way, block: Tensor, slope: Tensor, weight: Tensor, both: Tensor, aside: Tensor) -> Tensor:
    """Return the slope of a block: W'^T slope, and what comes through the statistics of the samples they are from."""
    back = weight.transpose(1, 2)
    if way.rows == way.batch:
        found = product(both, block, aside, block, apart=False)
        add_product(found, back, slope)
        return found
    found = product(back, slope, None, block, apart=False)
    way.through_statistics(found, aside, [(both, block)])
    return found


def normalised(
    way: Way, weight: Tensor, scale: Tensor | None, blocks: list[Tensor], plain: bool
) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
    """Return scale * (W x - mean) / sqrt(variance + eps) over the batch, and the mean and variance of W x.

    Args:
        way: ReLU for each kind, or one sum over all kinds.
        weight: W of all kinds one after the other, (blocks, channels out, channels in).
        scale: (blocks, 1, 1), or None for 1.
        blocks: x of each kind, (blocks, channels in, positions).
        plain: compose it of functions that have every derivative, forward mode included.

    Returns:
        One result for each kind, or the sum alone, (blocks, channels out, positions); mean and variance, (blocks,
        channels out, 1), or None in a forward-mode pass, which moves nothing.
    """
    weight = exact(weight)
    if not plain:
        *outputs, centre, variance = _Normalised.apply(way, weight, scale, *blocks)
        return outputs, centre, variance
    if any(taken_apart(block).along is not None for block in blocks):
        found = normalised_pairs(way, weight, scale, blocks)
        if found is not None:
            return found, None, None
    means, covariances = zip(*(moments(way.own(block)) for block in blocks), strict=True)
    weight, bias, centre, variance = scaled(weight, torch.cat(means), torch.cat(covariances), scale)
    counts = [len(block) for block in blocks]
    weights, biases = torch.split_with_sizes(weight, counts), torch.split_with_sizes(bias, counts)
    if way.relu:
        parts = zip(weights, biases, blocks, strict=True)
        return [torch.relu(products(b, w, x, apart=False)) for w, b, x in parts], centre, variance
    pairs = [part for w, x in zip(weights, blocks, strict=True) for part in (w, x)]
    return [products(torch.stack(biases).sum(0), *pairs, apart=True)], centre, variance
