"""The gates to choose from: conv, resnet8, linear, timm:NAME, and those of the comparison methods."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lbgnas.errors import unknown
from lbgnas.networks.fixed import FixedNetwork
from lbgnas.networks.gate import SmallGate
from lbgnas.networks.residual import ResNet, group_norm

GATES = ("conv", "resnet8", "linear", "timm:NAME")

_RESNET8_WIDTH = 16


class LinearGate(nn.Module):
    """One linear layer on the pixels: images (batch, C, H, W) to logits (batch, groups)."""

    def __init__(self, in_channels: int, groups: int, size: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(in_channels * size * size, groups)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the groups."""
        logits: Tensor = self.classifier(images.flatten(1))
        return logits


class UniformGate(nn.Module):
    """Equal weights for all experts: their soft mixture is the mean of their answers."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, images: Tensor) -> Tensor:
        """Return zeros, (batch, groups)."""
        return images.new_zeros(images.shape[0], self.groups)


class RandomGate(nn.Module):
    """A group that depends on the image but on nothing that can be seen in it: the end of a long number.

    A random projection of the pixels, times a large factor, modulo the number of groups.
    """

    projection: Tensor

    def __init__(self, in_channels: int, groups: int, size: int) -> None:
        super().__init__()
        self.groups = groups
        self.register_buffer("projection", torch.randn(in_channels * size * size))

    def forward(self, images: Tensor) -> Tensor:
        """Return 0 for the drawn group and -1e4 for the others, (batch, groups)."""
        # Steps of 1/1000 first, so that the same image falls alike in every batch and precision.
        code = (images.flatten(1).double() * self.projection.double()).sum(1).mul(1000).round()
        group = code.remainder(self.groups).long()
        chosen = nn.functional.one_hot(group, self.groups).to(images.dtype)
        return (chosen - 1) * 1e4


class NearestGate(nn.Module):
    """The nearest of `groups` centres, in pixels averaged to 8 x 8: logits are -|x - c|^2 / 2, (batch, groups)."""

    centres: Tensor

    def __init__(self, in_channels: int, groups: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.zeros(groups, in_channels * 64))

    @staticmethod
    def features(images: Tensor) -> Tensor:
        """Return what is compared, (batch, C * 64)."""
        return nn.functional.adaptive_avg_pool2d(images, 8).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the groups."""
        return -((self.features(images)[:, None] - self.centres) ** 2).sum(2) / 2


def make_gate(name: str, in_channels: int, groups: int, size: int, width: int = 16) -> nn.Module:
    """Return a gate by name; images (batch, in_channels, size, size) to logits (batch, groups).

    Args:
        name: one of `GATES`, or "uniform", "random", "nearest".
        in_channels, groups, size: of images and logits.
        width: channels of conv's first convolution.

    Raises:
        LbgnasError: an unknown name.
    """
    if name.startswith("timm:"):
        return FixedNetwork(name, (), 0, in_channels, groups, size).build()
    if name == "conv":
        return SmallGate(in_channels, groups, width)
    if name == "resnet8":
        return ResNet((1, 1, 1), _RESNET8_WIDTH, in_channels, groups, size, group_norm)
    if name == "linear":
        return LinearGate(in_channels, groups, size)
    if name == "uniform":
        return UniformGate(groups)
    if name == "random":
        return RandomGate(in_channels, groups, size)
    if name == "nearest":
        return NearestGate(in_channels, groups)
    raise unknown("gate", name, GATES, "--gate")
