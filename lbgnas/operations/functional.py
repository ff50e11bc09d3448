"""Primitives that candidate operations are made of, in the forms that suit both devices and both kinds of pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int = 1) -> Tensor:
    """Convolve every channel with its own square kernel, padded so that stride 1 keeps the size.

    Args:
        x: (batch, channels, height, width).
        weight: (channels, 1, kernel, kernel), kernel odd.
    """
    padding = dilation * (weight.shape[-1] - 1) // 2
    return F.conv2d(x, weight, stride=stride, padding=padding, dilation=dilation, groups=x.shape[1])


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


def batch_norm(x: Tensor, mean: Tensor, var: Tensor, training: bool, scale: Tensor | None = None) -> Tensor:
    """Normalise each channel (momentum 0.1, eps 1e-5), then multiply it by `scale`.

    Called below `torch.nn.functional` so that one value per channel is allowed: it then gives zero.

    Args:
        x: (batch, channels, height, width).
        mean: running mean, (channels,), edited in place in training.
        var: running variance, (channels,), edited in place in training.
        scale: (channels,) or None for 1.
    """
    return torch.batch_norm(x, scale, None, mean, var, training, 0.1, 1e-5, torch.backends.cudnn.enabled)


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
