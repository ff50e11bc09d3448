"""Sensitive attributes that we give to images ourselves: who gets which value, and how it is made visible."""

from __future__ import annotations

import torch

from lbgnas.data.seeds import generator
from lbgnas.data.split import stratified_order

_BLUE = 0.25
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def assigned(sides: torch.Tensor, strata: torch.Tensor, agreement: float, *words: str | int) -> torch.Tensor:
    """Return an attribute that equals `sides` for a share `agreement` of either side, exact up to rounding.

    Args:
        sides: (N,), 0 or 1: the value that agrees with the sample's label.
        strata: (N,); within each the share is (nearly) the same.
        agreement: P(attribute = side), 0 to 1; 0.5 makes the attribute independent of the label.
        words: name the random choice; it is the same in every run, whatever its seed.

    Example:
        >>> sides = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> (assigned(sides, sides, 0.5, "doc") == sides).sum().item()
        3
    """
    values = 1 - sides
    for side in (0, 1):
        members = (sides == side).nonzero().squeeze(1)
        order = stratified_order(strata[members], generator(0, *words, side))
        values[members[order[: round(agreement * len(members))]]] = side
    return values


def painted(grey: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """Return grey bytes (N, 1, H, W) as RGB: red where the colour is 0, green where it is 1, a quarter of blue."""
    count, _, height, width = grey.shape
    pixels = torch.zeros(count, 3, height, width, dtype=torch.uint8)
    pixels[torch.arange(count), colours] = grey[:, 0]
    pixels[:, 2] = (grey[:, 0].float() * _BLUE).round().byte()
    return pixels


def painted_statistics(mean: float, std: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std of the three channels of `painted`, if both colours are equally frequent.

    A coloured channel X is the grey G or 0, each half of the time: E X = E G / 2, E X^2 = E G^2 / 2.
    """
    spread = ((std**2 + mean**2) / 2 - mean**2 / 4) ** 0.5
    return (mean / 2, mean / 2, _BLUE * mean), (spread, spread, _BLUE * std)


def marked(pixels: torch.Tensor, marks: torch.Tensor, strength: int, side: int) -> torch.Tensor:
    """Return bytes (N, C, H, W), brighter by `strength` in a square near the upper left corner where the mark is 1."""
    place = (slice(None), slice(None), slice(1, 1 + side), slice(1, 1 + side))
    result = pixels.clone()
    result[place] = (pixels[place].int() + strength * marks[:, None, None, None]).clamp(max=255).byte()
    return result


def drained(pixels: torch.Tensor, colourful: torch.Tensor) -> torch.Tensor:
    """Return RGB bytes (N, 3, H, W), made grey (luma) where `colourful` is 0."""
    result = pixels.clone()
    for rows in torch.split((colourful == 0).nonzero().squeeze(1), 1024):
        result[rows] = luma(pixels[rows].float()).round().clamp(0, 255).byte().expand(-1, 3, -1, -1)
    return result


def luma(images: torch.Tensor) -> torch.Tensor:
    """Return the brightness of RGB images (N, 3, H, W), floating point, as (N, 1, H, W)."""
    return (images * torch.tensor(_LUMA, device=images.device)[:, None, None]).sum(1, keepdim=True)
