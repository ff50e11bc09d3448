"""The gate (group-assignment model): a small CNN whose answer for a sample depends on that sample alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lbgnas.errors import LbgnasError


class SmallGate(nn.Module):
    """Three 3x3 convolutions (the last two halve the size), group norms, average pooling and a linear layer.

    Group instead of batch normalisation: a sample's group must not depend on the batch it comes in.

    Shapes: images (batch, in_channels, height, width) to logits (batch, groups); f(x; T) is their softmax.
    """

    def __init__(self, in_channels: int, groups: int, width: int = 16) -> None:
        super().__init__()
        self.record = {"kind": "small", "in_channels": in_channels, "groups": groups, "width": width}
        layers: list[nn.Module] = []
        channels = in_channels
        for stride in (1, 2, 2):
            layers += [
                nn.Conv2d(channels, width, 3, stride, 1, bias=False),
                nn.GroupNorm(1, width),
                nn.ReLU(),
            ]
            channels, width = width, 2 * width
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, groups)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the groups."""
        logits: Tensor = self.classifier(self.layers(images).mean((2, 3)))
        return logits


def build_gate(record: Mapping[str, Any], where: str = "gate") -> SmallGate:
    """Build the gate that a genotype file describes.

    Raises:
        LbgnasError: if the description is of no gate known here.
    """
    numbers = {key: record.get(key) for key in ("in_channels", "groups", "width")}
    if record.get("kind") != "small" or not all(type(value) is int and value > 0 for value in numbers.values()):
        raise LbgnasError(
            f"{where}: {dict(record)} describes no known gate; kind 'small' with in_channels, groups, width is"
        )
    return SmallGate(**numbers)  # type: ignore[arg-type]
