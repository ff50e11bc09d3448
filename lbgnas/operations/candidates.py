"""The candidate operations on one edge of an evaluation network, and the blocks that join cells."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lbgnas.errors import unknown
from lbgnas.operations.channels import join_channels
from lbgnas.operations.depthwise import DepthwiseConv
from lbgnas.registry import OWN, Builder


def strided_pointwise(x: Tensor, weight: Tensor, offset: int) -> Tensor:
    """Convolve every second pixel of every second row, from `offset` on, by a 1x1 kernel.

    The pixels are picked first: on a CPU with several threads, torch's strided 1x1 convolution of very few channels
    in channels-last order writes beyond its memory. The gradient has the order of x, too: mixed orders are slow.

    Args:
        x: (batch, channels in, height, width).
        weight: (channels out, channels in, 1, 1).
        offset: 0 or 1.
    """
    if x.is_contiguous(memory_format=torch.channels_last):
        picked = x.permute(0, 2, 3, 1)[:, offset::2, offset::2].permute(0, 3, 1, 2)
    else:
        picked = x[:, :, offset::2, offset::2]
    return nn.functional.conv2d(picked, weight)


class FactorizedReduce(nn.Module):
    """Halve the size without losing pixels: ReLU, two 1x1 convolutions of stride 2 shifted by a pixel, batch norm.

    Shapes: (batch, channels in, height, width), both even, to (batch, channels out, height / 2, width / 2).
    """

    def __init__(self, in_channels: int, out_channels: int, affine: bool = True) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(in_channels, out_channels // 2, 1, stride=2, bias=False)
        self.conv_2 = nn.Conv2d(in_channels, out_channels // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Return the halved state."""
        active = torch.relu(x)
        halves = [strided_pointwise(active, self.conv_1.weight, 0), strided_pointwise(active, self.conv_2.weight, 1)]
        output: Tensor = self.norm(join_channels(*halves))
        return output


def relu_conv_norm(in_channels: int, out_channels: int, affine: bool = True) -> nn.Sequential:
    """Return ReLU, 1x1 convolution and batch norm: how a cell brings its inputs to its own width."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels, affine=affine),
    )


def _depthwise(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    return [
        nn.ReLU(),
        DepthwiseConv(channels, kernel, stride, dilation),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    ]


def _separable(kernel: int) -> Builder:
    return lambda channels, stride, affine: nn.Sequential(
        *_depthwise(channels, kernel, stride, 1, affine), *_depthwise(channels, kernel, 1, 1, affine)
    )


def _dilated(kernel: int) -> Builder:
    return lambda channels, stride, affine: nn.Sequential(*_depthwise(channels, kernel, stride, 2, affine))


def _skip(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)


def _one_by_seven(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, (1, 7), (1, stride), (0, 3), bias=False),
        nn.Conv2d(channels, channels, (7, 1), (stride, 1), (3, 0), bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    )


class Noise(nn.Module):
    """Standard normal noise of the state's size, whatever the state holds (DARTS-, space S4)."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return noise shaped like the (strided) input, the same in every memory format."""
        size = [-(-side // self.stride) for side in x.shape[2:]]
        return torch.randn(*x.shape[:2], *size, dtype=x.dtype, device=x.device)


_BUILDERS: dict[str, Builder] = {
    "max_pool_3x3": lambda channels, stride, affine: nn.MaxPool2d(3, stride, 1),
    "avg_pool_3x3": lambda channels, stride, affine: nn.AvgPool2d(3, stride, 1, count_include_pad=False),
    "skip_connect": _skip,
    "sep_conv_3x3": _separable(3),
    "sep_conv_5x5": _separable(5),
    "sep_conv_7x7": _separable(7),
    "dil_conv_3x3": _dilated(3),
    "dil_conv_5x5": _dilated(5),
    "conv_7x1_1x7": _one_by_seven,
    "noise": lambda channels, stride, affine: Noise(stride),
}


def build_operation(name: str, channels: int, stride: int, affine: bool = True) -> nn.Module:
    """Return one operation on one edge, a user's own included; no batch norm after pools.

    Args:
        name: as in genotype files.
        channels: C, kept.
        stride: 1 or 2.
        affine: whether batch norms have weights; they have none in a supernet.

    Raises:
        LbgnasError: for a name that is no operation.

    Example:
        >>> build_operation("sep_conv_3x3", 8, 2)(torch.ones(2, 8, 6, 6)).shape
        torch.Size([2, 8, 3, 3])
    """
    builders = {**_BUILDERS, **OWN}
    if name not in builders:
        raise unknown("operation", name, builders)
    module: nn.Module = builders[name](channels, stride, affine)
    return module
