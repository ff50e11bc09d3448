"""Primitives that candidate operations are made of, in the forms that suit both devices and both kinds of pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int = 1) -> Tensor:
    """Convolve every channel with its own square kernel, padded so that stride 1 keeps the size.

    A convolution of dilation 2 never mixes even with odd pixels: with stride 2 it is a plain one on every second
    pixel, with stride 1 a plain one on each of four quarter images. The CPU's backward of a dilated depthwise
    convolution takes several times as long.

    Args:
        x: (batch, channels, height, width).
        weight: (channels, 1, kernel, kernel), kernel odd.
        stride: 1 or 2.
        dilation: 1 or 2.
    """
    if dilation == 2 and stride == 2:
        return depthwise(x[:, :, ::2, ::2], weight, 1)
    if dilation == 2 and not x.is_cuda and x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0:
        return _from_quarters(depthwise(_quarters(x), weight, 1), x.shape[0])
    padding = dilation * (weight.shape[-1] - 1) // 2
    return F.conv2d(x, weight, stride=stride, padding=padding, dilation=dilation, groups=x.shape[1])


def _quarters(x: Tensor) -> Tensor:
    """Split (batch, C, H, W) into the images of equal pixel parity, (4 batch, C, H / 2, W / 2)."""
    batch, channels, height, width = x.shape
    split = x.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(3, 5, 0, 2, 4, 1)
    return split.reshape(4 * batch, height // 2, width // 2, channels).permute(0, 3, 1, 2)


def _from_quarters(x: Tensor, batch: int) -> Tensor:
    _, channels, height, width = x.shape
    joined = x.permute(0, 2, 3, 1).reshape(2, 2, batch, height, width, channels).permute(2, 3, 0, 4, 1, 5)
    return joined.reshape(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


def grouped_pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """Mix the channels inside every group: y[n, g] = W_g x[n, g].

    Args:
        x: (batch, groups * channels, height, width).
        weight: (groups, channels out, channels in).

    Returns:
        (batch, groups * channels out, height, width), in channels-last order as its input should be.
    """
    groups, out_channels, in_channels = weight.shape
    if x.is_cuda:
        return F.conv2d(x, weight.reshape(groups * out_channels, in_channels, 1, 1), groups=groups)
    batch, _, height, width = x.shape
    # One product of matrices a group: the CPU's grouped 1x1 convolution takes about twice the time.
    pixels = x.permute(0, 2, 3, 1).reshape(batch * height * width, groups, in_channels).transpose(0, 1)
    mixed = torch.bmm(pixels, weight.transpose(1, 2)).transpose(0, 1)
    return mixed.reshape(batch, height, width, groups * out_channels).permute(0, 3, 1, 2)


def strided_pointwise(x: Tensor, weight: Tensor, offset: int) -> Tensor:
    """Convolve every second pixel of every second row, from `offset` on, by a 1x1 kernel.

    The pixels are picked first: on a CPU with several threads, torch's strided 1x1 convolution of very few channels
    in channels-last order writes beyond its memory.

    Args:
        x: (batch, channels in, height, width).
        weight: (channels out, channels in, 1, 1).
        offset: 0 or 1.
    """
    return F.conv2d(x[:, :, offset::2, offset::2], weight)


def batch_norm(x: Tensor, mean: Tensor, var: Tensor, training: bool, scale: Tensor | None = None) -> Tensor:
    """Normalise each channel (momentum 0.1, eps 1e-5), then multiply it by `scale`.

    Called below `torch.nn.functional` so that one value per channel is allowed: it then gives zero up to rounding,
    and the running statistics stay, for one value has no variance.

    Args:
        x: (batch, channels, height, width).
        mean: running mean, (channels,), edited in place in training.
        var: running variance, (channels,), edited in place in training.
        scale: (channels,) or None for 1.
    """
    cudnn = torch.backends.cudnn.enabled
    if training and x.numel() <= x.shape[1]:
        return torch.batch_norm(x, scale, None, None, None, True, 0.1, 1e-5, cudnn)
    return torch.batch_norm(x, scale, None, mean, var, training, 0.1, 1e-5, cudnn)


def average_pool(x: Tensor, stride: int) -> Tensor:
    """Average over 3x3 windows, padding left out of the count."""
    return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)


def max_pool(x: Tensor, stride: int) -> Tensor:
    """Take the maximum over 3x3 windows."""
    return F.max_pool2d(x, 3, stride, 1)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave `groups` blocks of channels: output q * groups + g is input g * (channels / groups) + q.

    Example:
        >>> channel_shuffle(torch.arange(8.0).reshape(1, 8, 1, 1), 4).flatten().tolist()
        [0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]
    """
    batch, channels, height, width = x.shape
    shaped = x.reshape(batch, groups, channels // groups, height, width)
    return shaped.transpose(1, 2).reshape(batch, channels, height, width)
