"""Maximum over 3x3 windows that keeps, for its derivatives, where each maximum stood in one byte.

Torch keeps eight bytes for each: twice what the maximum itself takes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function

WINDOW = ([3, 3], [1, 1], [1, 1])
"""Side, padding and dilation."""
WIDEST = 126
"""Images up to this wide: a pixel of the next row is then at most 127 pixels away."""


@lru_cache(maxsize=64)
def _middles(size: tuple[int, int], width: int, stride: int, device: torch.device) -> Tensor:
    """Return the number of the pixel in the middle of each window, (rows, columns)."""
    rows, columns = (stride * torch.arange(side, device=device) for side in size)
    return rows[:, None] * width + columns


def _pooled(x: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    kernel, padding, dilation = WINDOW
    found: tuple[Tensor, Tensor] = torch.ops.aten.max_pool2d_with_indices(
        x, kernel, [stride, stride], padding, dilation
    )
    return found


def _offsets(size: torch.Size, places: Tensor, stride: int) -> Tensor:
    return _middles((places.shape[2], places.shape[3]), size[3], stride, places.device)


class _MaxPool(Function):
    @staticmethod
    def forward(x: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        largest, places = _pooled(x, stride)
        return largest, (places - _offsets(x.shape, places, stride)).to(torch.int8)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, ctx.stride = inputs
        ctx.size = x.shape
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])
        ctx.save_for_forward(output[1])

    @staticmethod
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor, None]:
        kernel, padding, dilation = WINDOW
        stride = [ctx.stride, ctx.stride]
        # Of the images only shape and order are looked at.
        like = torch.empty(ctx.size, dtype=slope.dtype, device=slope.device, memory_format=torch.channels_last)
        (places,) = ctx.saved_tensors
        found: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(
            slope.contiguous(memory_format=torch.channels_last),
            like,
            kernel,
            stride,
            padding,
            dilation,
            False,
            places + _offsets(ctx.size, places, ctx.stride),
        )
        return found, None

    @staticmethod
    def jvp(ctx: Any, along: Tensor, _: None) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        picked = along.flatten(2).gather(2, (places + _offsets(ctx.size, places, ctx.stride)).flatten(2))
        return picked.view(places.shape), None


def max_pool(x: Tensor, stride: int) -> Tensor:
    """Return the maximum over 3x3 windows, padded so that stride 1 keeps the size.

    Args:
        x: (batch, channels, height, width).
        stride: 1 or 2.

    Example:
        >>> max_pool(torch.arange(9.0).view(1, 1, 3, 3), 2).flatten().tolist()
        [4.0, 5.0, 7.0, 8.0]
    """
    if x.shape[3] > WIDEST:
        return F.max_pool2d(x, 3, stride, 1)
    largest, _ = _MaxPool.apply(x, stride)
    pooled: Tensor = largest
    return pooled
