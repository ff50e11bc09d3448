"""Normalised products of values with tangents: `normalised` differentiated along a direction, as one function."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from lbgnas.operations.orders import Way
from lbgnas.operations.products import EPS, add_product, average, crossed, product, total
from lbgnas.precision import exact
from lbgnas.tangents import joined, taken_apart


class _Small(NamedTuple):
    """Statistics of blocks x with tangents t: means of x and t, second moments x x^T and x t^T over positions."""

    mean: Tensor
    mean_along: Tensor
    square: Tensor
    cross: Tensor


def _fold(weight: Tensor, along: Tensor, scale: Tensor | None, small: _Small) -> list[Tensor]:
    """Return W', b and their tangents, for W with tangent `along`; see `products.scaled`."""
    mean, mean_along, square, cross = small
    covariance = square - mean @ mean.transpose(1, 2)
    one = cross - mean @ mean_along.transpose(1, 2)
    centre, centre_along = weight @ mean, along @ mean + weight @ mean_along
    spread = weight @ covariance
    variance = (spread * weight).sum(2, keepdim=True).clamp_min(0)
    # <w, (one + one^T) w> = 2 <w, one w>
    variance_along = 2 * (spread * along + (weight @ one) * weight).sum(2, keepdim=True)
    factor = (variance + EPS).rsqrt()
    factor_along = -0.5 * factor * factor * factor * variance_along
    if scale is not None:
        factor, factor_along = factor * scale, factor_along * scale
    folded = weight * factor
    folded_along = along * factor + weight * factor_along
    return [folded, folded_along, -centre * factor, -(centre_along * factor + centre * factor_along)]


class _NormalisedPair(Function):
    """Blocks and tangents to results and tangents; `normalised._Normalised` differentiated along a direction."""

    @staticmethod
    def forward(
        ctx: Any, way: Way, weight: Tensor, along: Tensor, scale: Tensor | None, *pairs: Tensor
    ) -> tuple[Tensor, ...]:
        blocks, tangents = pairs[::2], pairs[1::2]
        parts = []
        for block, tangent in zip(blocks, tangents, strict=True):
            x, t = way.own(block), way.own(tangent)
            share = 1 / x.shape[2]
            x, t = exact(x), exact(t)
            parts.append(
                _Small(average(x), average(t), crossed(x, x).mul_(share), crossed(t, x).mul_(share).transpose(1, 2))
            )
        small = _Small(*(torch.cat(each) for each in zip(*parts, strict=True)))
        folded = _fold(weight, along, scale, small)
        counts = [len(block) for block in blocks]
        split = [torch.split_with_sizes(each, counts) for each in folded]
        values: list[Tensor] = []
        moved: list[Tensor] = []
        for block, tangent, w, w_along, b, b_along in zip(blocks, tangents, *split, strict=True):
            if way.relu or not values:
                if not way.relu:
                    b, b_along = (torch.unflatten(each, 0, (len(blocks), -1)).sum(0) for each in folded[2:])
                values.append(product(w, block, b, block, apart=not way.relu))
                moved.append(product(w_along, block, b_along, block, apart=not way.relu))
            else:
                add_product(values[0], w, block)
                add_product(moved[0], w_along, block)
            add_product(moved[-1], w, tangent)
            if way.relu:
                values[-1].clamp_min_(0)
                moved[-1] = torch.ops.aten.threshold_backward(moved[-1], values[-1], 0)
        ctx.way, ctx.count = way, len(blocks)
        ctx.save_for_backward(weight, along, scale, *small, *folded[:2], *pairs, *(values if way.relu else ()))
        return (*values, *moved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        way, count = ctx.way, ctx.count
        weight, along, scale, *rest = ctx.saved_tensors
        small, (folded, folded_along) = _Small(*rest[:4]), rest[4:6]
        pairs, rectified = rest[6 : 6 + 2 * count], rest[6 + 2 * count :]
        blocks, tangents = pairs[::2], pairs[1::2]
        if way.relu:
            given = [
                torch.ops.aten.threshold_backward(slope, out, 0)
                for slope, out in zip(slopes, (*rectified, *rectified), strict=True)
            ]
            to_value, to_along = given[:count], given[count:]
            to_bias, to_bias_along = (torch.cat([total(slope) for slope in each]) for each in (to_value, to_along))
        else:
            to_value, to_along = [slopes[0]] * count, [slopes[1]] * count
            to_bias, to_bias_along = (total(slope).repeat(count, 1, 1) for slope in slopes)
        to_folded, to_folded_along = [], []
        for g, g_along, x, t in zip(to_value, to_along, blocks, tangents, strict=True):
            x, t, g, g_along = map(exact, (x, t, g, g_along))
            to_folded.append(crossed(g, x).baddbmm_(g_along, t.transpose(1, 2)))
            to_folded_along.append(crossed(g_along, x))
        # What is small goes through autograd.
        leaves = [x.detach().requires_grad_() for x in (*small, weight, along, *([] if scale is None else [scale]))]
        with torch.enable_grad():
            again = _fold(leaves[4], leaves[5], leaves[6] if scale is not None else None, _Small(*leaves[:4]))
        slopes_of = [torch.cat(to_folded), torch.cat(to_folded_along), to_bias, to_bias_along]
        needs = ctx.needs_input_grad
        wanted = leaves[:4] + [leaf for leaf, needed in zip(leaves[4:], needs[1:4], strict=False) if needed]
        to_small = list(torch.autograd.grad(again, wanted, slopes_of))
        through = _Small(*to_small[:4])
        later = iter(to_small[4:])
        first = [next(later) if needed else None for needed in needs[1:4]]
        found: list[Tensor] = []
        start = 0
        for g, g_along, x, t in zip(to_value, to_along, blocks, tangents, strict=True):
            part = slice(start, start + len(x))
            start += len(x)
            back, back_along = folded[part].transpose(1, 2), folded_along[part].transpose(1, 2)
            mean, mean_along, square, cross = (each[part] for each in through)
            share = 1 / way.own(x).shape[2]
            both = (square + square.transpose(1, 2)) * share
            cross = cross * share
            to_x = product(back, g, None, x, apart=False)
            add_product(to_x, back_along, g_along)
            to_t = product(back, g_along, None, x, apart=False)
            way.through_statistics(to_x, mean * share, [(both, x), (cross, t)])
            way.through_statistics(to_t, mean_along * share, [(cross.transpose(1, 2), x)])
            found += [to_x, to_t]
        return None, *first, *found


def normalised_pairs(way: Way, weight: Tensor, scale: Tensor | None, blocks: list[Tensor]) -> list[Tensor] | None:
    """Return what `normalised` does, for blocks with tangents; None where the scale has a tangent too."""
    if scale is not None and taken_apart(scale).along is not None:
        return None
    pairs = [taken_apart(block) for block in blocks]
    value, along = taken_apart(weight)
    inputs = [part for x, t in pairs for part in (x, torch.zeros_like(x) if t is None else t)]
    results = _NormalisedPair.apply(way, value, torch.zeros_like(value) if along is None else along, scale, *inputs)
    half = len(results) // 2
    return [joined(x, t) for x, t in zip(results[:half], results[half:], strict=True)]
