"""Image transforms on whole batches (B, C, H, W).

Random choices are drawn on the CPU, one an image, and then moved: they are the same on every device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import interpolate, pad

from lbgnas.errors import LbgnasError


def random_crop(images: torch.Tensor, padding: int, generator: torch.Generator) -> torch.Tensor:
    """Return crops of the images' own size, each at a uniform place of the image padded with zeros.

    Args:
        images: (B, C, H, W), not yet normalised, so that the padding is black.
        padding: pixels on every side, at least 0; an image moves by -padding to padding both ways.
        generator: a CPU generator.
    """
    _check_length("padding", padding)
    if padding == 0:
        return images
    count, _, height, width = images.shape
    top, left = torch.randint(2 * padding + 1, (2, count), generator=generator).to(images.device)
    windows = pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(count, device=images.device), :, top, left]


def random_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the images, each mirrored left to right with probability 1/2."""
    mirrored = torch.randint(2, (len(images), 1, 1, 1), generator=generator).bool().to(images.device)
    return torch.where(mirrored, images.flip(-1), images)


def cutout(images: torch.Tensor, length: int, generator: torch.Generator) -> torch.Tensor:
    """Return the images with one square each set to zero (DeVries and Taylor, 2017).

    The centre (y, x) is uniform over all pixels; rows y - l/2 to y + l/2 - 1 and columns x - l/2 to
    x + l/2 - 1 are zeroed as far as they lie in the image, so that squares near a border are smaller.

    Args:
        images: (B, C, H, W), already normalised: zero is the mean colour.
        length: l, in pixels, at least 0; an odd l has its middle at the centre.
        generator: a CPU generator.
    """
    _check_length("cutout", length)
    if length == 0:
        return images
    count, _, height, width = images.shape
    rows = _window(torch.randint(height, (count,), generator=generator), height, length)
    columns = _window(torch.randint(width, (count,), generator=generator), width, length)
    hole = (rows[:, None, :, None] & columns[:, None, None, :]).to(images.device)
    return images.masked_fill(hole, 0)


def normalise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Return (images - mean) / std, channel by channel.

    Example:
        >>> normalise(torch.full((1, 1, 1, 1), 0.75), [0.5], [0.25]).item()
        1.0
    """
    shape = (1, -1, 1, 1)
    centre = torch.tensor(mean, dtype=images.dtype, device=images.device).reshape(shape)
    spread = torch.tensor(std, dtype=images.dtype, device=images.device).reshape(shape)
    return (images - centre) / spread


def padded_size(size: int, multiple: int = 4) -> int:
    """Return the smallest multiple of `multiple` that is at least `size`, both in pixels.

    Example:
        >>> padded_size(30), padded_size(32)
        (32, 32)
    """
    return -(-size // multiple) * multiple


def pad_to_multiple(images: torch.Tensor, multiple: int = 4) -> torch.Tensor:
    """Return the images with zeros around them, so that both sides are multiples of `multiple`.

    Both sides of an image get the same; an odd pixel goes to the right or the bottom.

    Example:
        >>> pad_to_multiple(torch.ones(1, 1, 30, 32)).shape
        torch.Size([1, 1, 32, 32])
    """
    height, width = images.shape[-2:]
    more_rows, more_columns = padded_size(height, multiple) - height, padded_size(width, multiple) - width
    if not more_rows and not more_columns:
        return images
    left, top = more_columns // 2, more_rows // 2
    return pad(images, [left, more_columns - left, top, more_rows - top])


def resized(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Return uint8 images (N, C, H, H) scaled to `size` pixels a side: bilinear, smoothed when it shrinks."""
    if pixels.shape[-1] == size:
        return pixels
    parts = [
        interpolate(part.float(), (size, size), mode="bilinear", antialias=True).round_().clamp_(0, 255).byte()
        for part in torch.split(pixels, 1024)
    ]
    return torch.cat(parts)


def _window(centre: torch.Tensor, side: int, length: int) -> torch.Tensor:
    """Return (B, side), true where a pixel lies in the window of `length` around its image's centre."""
    offset = torch.arange(side) - (centre[:, None] - length // 2)
    return (offset >= 0) & (offset < length)


def _check_length(name: str, length: int) -> None:
    if length < 0:
        raise LbgnasError(f"{name}: {length} pixels is below 0")
