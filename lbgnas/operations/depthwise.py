"""Depthwise convolutions of a state by the kernels of all its edges, with derivatives that are as fast as they are.

Every kind of kernel is one call for all edges: out[n, (m, c)] = x[n, c] * w[m, c], * being a convolution padded so that
stride 1 keeps the size. The map is bilinear, so all its derivatives are maps of the same kind.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function

from lbgnas.tangents import linear


class _Depthwise(Function):
    """Convolve x (batch, C, H, W) by weights of (edges * C, 1, k, k) each; outputs are in channels-last order."""

    @staticmethod
    def forward(x: Tensor, stride: int, dilations: tuple[int, ...], *weights: Tensor) -> tuple[Tensor, ...]:
        spread = _Spread(x)
        return tuple(
            _forward(spread.to(weight.shape[0]), weight, stride, dilation)
            for weight, dilation in zip(weights, dilations, strict=True)
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, ctx.stride, ctx.dilations, *weights = inputs
        ctx.save_for_backward(x, *weights)
        ctx.save_for_forward(x, *weights)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        to_x = None
        spread = _Spread(x)
        reach = max(d * (w.shape[-1] // 2) for w, d in zip(weights, ctx.dilations, strict=True))
        to_weights: list[Tensor | None] = []
        for weight, dilation, slope, asked in zip(weights, ctx.dilations, slopes, wanted, strict=True):
            slope = slope.contiguous(memory_format=torch.channels_last)
            if ctx.needs_input_grad[0]:
                part = _to_input(slope, weight, ctx.stride, dilation, x.shape[2:])
                part = _gathered(part, x.shape[1])
                to_x = part if to_x is None else to_x + part
            found = _to_weight(spread, slope, weight, ctx.stride, dilation, reach) if asked else None
            to_weights.append(found)
        return to_x, None, None, *to_weights

    @staticmethod
    def jvp(ctx: Any, along_x: Tensor | None, _: Any, __: Any, *along_weights: Tensor | None) -> tuple[Tensor, ...]:
        x, *weights = ctx.saved_tensors
        stride, dilations = ctx.stride, ctx.dilations
        total: tuple[Tensor, ...] | None = None
        if along_x is not None:
            total = depthwise(along_x, stride, dilations, *weights)
        if any(along is not None for along in along_weights):
            moved = [
                torch.zeros_like(w) if along is None else along for along, w in zip(along_weights, weights, strict=True)
            ]
            parts = depthwise(x, stride, dilations, *moved)
            total = parts if total is None else tuple(a + b for a, b in zip(total, parts, strict=True))
        assert total is not None
        return total


def depthwise(x: Tensor, stride: int, dilations: tuple[int, ...], *weights: Tensor) -> tuple[Tensor, ...]:
    """Convolve a state by several sets of kernels.

    Args:
        x: (batch, C, height, width).
        stride: 1 or 2.
        dilations: 1 or 2, one for each set.
        weights: (edges * C, 1, k, k), k odd; the channels of one edge follow each other.

    Returns:
        For each set (batch, edges * C, height, width) in channels-last order, sizes divided by the stride.

    Example:
        >>> depthwise(torch.ones(1, 2, 4, 4), 1, (1,), torch.ones(6, 1, 3, 3))[0][0, :, 0, 0].tolist()
        [4.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    """
    outputs: tuple[Tensor, ...] = _Depthwise.apply(x, stride, dilations, *weights)
    return outputs


FEW = 4
"""Side of images that are convolved as products where a kernel is larger than they are."""


class DepthwiseConv(torch.nn.Conv2d):
    """A depthwise convolution (channels, 1, k, k) that a CPU is trained by at the speed of its arithmetic.

    oneDNN's backward is several times slower than need be for dilated kernels, and for kernels larger than the image.
    """

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, channels, height, width) divided by the stride."""
        learned = x.is_cpu and self.training and torch.is_grad_enabled()
        if not learned or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        stride, dilation = self.stride[0], self.dilation[0]
        height, width = x.shape[2:]
        if max(height, width) <= FEW and dilation * (self.kernel_size[0] - 1) >= min(height, width):
            return _as_products(x, self.weight, stride, dilation)
        if dilation == 2:
            return depthwise(x, stride, (dilation,), self.weight)[0]
        return super().forward(x)


def _as_products(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    batch, channels, height, width = x.shape
    matrices = as_matrices(weight, dilation, stride, height, width)
    pixels = x.permute(1, 2, 3, 0).contiguous().view(channels, height * width, batch)  # one order, one rounding
    outputs = torch.bmm(matrices, pixels)
    images = outputs.view(channels, -(-height // stride), -(-width // stride), batch).permute(3, 0, 1, 2)
    return images.contiguous(memory_format=torch.channels_last)


class _Spread:
    """A state repeated for several edges, made once for each number of edges."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.known: dict[int, Tensor] = {}
        self.laid_out: dict[tuple[int, int], _Tall] = {}

    def to(self, channels: int) -> Tensor:
        if channels not in self.known:
            batch, own, height, width = self.x.shape
            rows = self.x.permute(0, 2, 3, 1)[:, :, :, None].expand(-1, -1, -1, channels // own, -1)
            self.known[channels] = rows.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        return self.known[channels]

    def tall(self, channels: int, reach: int) -> _Tall:
        """Return the state repeated up to `channels`, laid out for kernels of this reach."""
        if (channels, reach) not in self.laid_out:
            self.laid_out[channels, reach] = _Tall(self.to(channels), reach)
        return self.laid_out[channels, reach]


def _gathered(x: Tensor, channels: int) -> Tensor:
    """Sum over edges: the adjoint of spreading."""
    if x.shape[1] == channels:
        return x
    return torch.unflatten(x.permute(0, 2, 3, 1), 3, (-1, channels)).sum(3).permute(0, 3, 1, 2)


def _forward(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    if dilation == 2 and stride == 2:  # never touches odd pixels
        return _forward(x[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last), weight, 1, 1)
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, None, stride, padding, dilation, x.shape[1])


def _to_input(slope: Tensor, weight: Tensor, stride: int, dilation: int, size: torch.Size) -> Tensor:
    if stride == 1:  # a convolution by the flipped kernel, which CPUs run far faster than the stock backward
        return _forward(slope, weight.flip(2, 3), 1, dilation)
    if dilation == 2:
        even = _to_input(slope, weight, 1, 1, slope.shape[2:])
        whole = even.new_zeros(slope.shape[0], *size, slope.shape[1]).permute(0, 3, 1, 2)
        whole[:, :, ::2, ::2] = even
        return whole
    x = slope.new_empty(1).expand(*slope.shape[:2], *size)  # only its shape is looked at
    return _stock(x, slope, weight, stride, dilation, (True, False, False))[0]


def _to_weight(spread: _Spread, slope: Tensor, weight: Tensor, stride: int, dilation: int, reach: int) -> Tensor:
    kernel = weight.shape[-1]
    x = spread.to(len(weight))
    if dilation == 2 and stride == 2:
        even = x[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)
        return _to_weight(_Spread(even), slope, weight, 1, 1, 2 * (kernel // 2))
    if stride == 1 and kernel * dilation > 3 and not x.is_cuda:
        return _by_small_kernels(spread.tall(len(weight), reach), _Tall(slope, reach), kernel, dilation)
    return _stock(x, slope, weight, stride, dilation, (False, True, False))[1]


def _stock(
    x: Tensor, slope: Tensor, weight: Tensor, stride: int, dilation: int, mask: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    padding = dilation * (weight.shape[-1] // 2)
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        slope, x, weight, None, [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], x.shape[1], list(mask)
    )
    return found


class _Tall:
    """Images (batch, C, H, W) laid out with zeros between rows and between samples.

    Then a shift is a shift of the address, the batch is one tall image, and with dilation 2 two pixels of a row are one
    pixel of twice the channels and two rows are one row: the same memory, read in another shape.
    """

    def __init__(self, image: Tensor, reach: int) -> None:
        batch, channels, height, width = image.shape
        # Even sides for dilation 2; two pixels from every border, for convolutions take what lies beyond it for zero.
        self.rows, self.columns = (-(-(side + max(reach, 4)) // 2) * 2 for side in (height, width))
        self.channels = channels
        self.size = batch * self.rows * self.columns * channels
        # An image of zeros before and after all others: shifts stay inside the memory.
        self.guard = self.rows * self.columns * channels
        right, below = self.columns - 2 - width, self.rows - 2 - height
        padded = F.pad(image.permute(0, 2, 3, 1), (0, 0, 2, right, 2, below, 1, 1))
        self.memory = padded.view(-1)

    def shifted(self, down: int, right: int, dilation: int) -> Tensor:
        """Return the tall image with pixel (0, 0) at what was (down, right), in pixels of this dilation."""
        start = self.guard + dilation * (down * self.columns + right) * self.channels
        batch_rows = self.size // (self.columns * self.channels)
        shape = (1, batch_rows // dilation, self.columns, dilation * self.channels)
        return self.memory[start : start + self.size].view(shape).permute(0, 3, 1, 2)


def _by_small_kernels(x: _Tall, slope: _Tall, kernel: int, dilation: int) -> Tensor:
    """Return the weights' gradient from those of 3x3 kernels without dilation, the only ones that CPUs are quick at.

    A larger kernel is a square of 3x3 ones.
    """
    still = slope.shifted(0, 0, dilation)
    weight = still.new_empty(still.shape[1], 1, 3, 3)
    # Taps count from the kernel's middle; each block reaches one to each side of its own.
    middles = [1 + 3 * block - kernel // 2 for block in range(-(-kernel // 3))]
    lines = []
    for down in middles:
        shifts = (x.shifted(down, right, dilation) for right in middles)
        lines.append(torch.cat([_stock(image, still, weight, 1, 1, (False, True, False))[1] for image in shifts], 3))
    found = torch.cat(lines, 2)[:, :, :kernel, :kernel]
    return found if dilation == 1 else torch.unflatten(found, 0, (dilation, slope.channels)).sum(0)


@lru_cache(maxsize=256)
def shift_matrices(
    kernel: int, dilation: int, stride: int, height: int, width: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return for each tap of a kernel which pixel it takes to which, (k * k, pixels out * pixels in), 0 or 1."""
    reach = dilation * (kernel // 2)
    rows, columns = -(-height // stride), -(-width // stride)

    def along(outputs: int, inputs: int) -> Tensor:
        taken = torch.arange(outputs)[None] * stride + torch.arange(kernel)[:, None] * dilation - reach
        return (taken[:, :, None] == torch.arange(inputs)).to(dtype)

    pairs = torch.einsum("aij,bkl->abikjl", along(rows, height), along(columns, width))
    return pairs.reshape(kernel * kernel, rows * columns * height * width).to(device)


def as_matrices(weight: Tensor, dilation: int, stride: int, height: int, width: int) -> Tensor:
    """Return the kernels (m, 1, k, k) as matrices over pixels, (m, pixels out, pixels in)."""
    shifts = shift_matrices(weight.shape[-1], dilation, stride, height, width, weight.dtype, weight.device)
    return linear(lambda kernels: kernels @ shifts, weight.flatten(1)).view(weight.shape[0], -1, height * width)


@lru_cache(maxsize=64)
def average_matrix(stride: int, height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the mean over 3x3 windows as a matrix, (pixels out, pixels in), padding left out of the count."""
    taken = shift_matrices(3, 1, stride, height, width, dtype, device).sum(0).view(-1, height * width)
    return taken / taken.sum(1, keepdim=True)


@lru_cache(maxsize=64)
def average_shares(stride: int, height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return 1 over the number of pixels inside each 3x3 window, (height out, width out)."""
    inside = torch.ones(1, 1, height, width, dtype=dtype, device=device)
    return F.conv2d(inside, inside.new_ones(1, 1, 3, 3), None, stride, 1).reciprocal()[0, 0]
