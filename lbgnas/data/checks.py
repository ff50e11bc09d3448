"""Checks of the tensors a data set is made of."""

from __future__ import annotations

import torch

from lbgnas.errors import LbgnasError


def check_pixels(images: torch.Tensor, channels: int, size: int, name: str) -> None:
    """Raise LbgnasError unless images are (N, channels, size, size), uint8, or finite and in [0, 1]."""
    expected = (channels, size, size)
    if images.dim() != 4 or not len(images) or tuple(images.shape[1:]) != expected:
        shape = "x".join(map(str, images.shape))
        wanted = "x".join(map(str, expected))
        raise LbgnasError(f"{name}: images have the shape {shape}, it must be Nx{wanted} with N at least 1")
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise LbgnasError(f"{name}: images are {images.dtype}, they must be uint8 or floating point")
    flat = images.detach().flatten(1)
    finite = flat.isfinite().all(1)
    if not finite.all():
        first = int(finite.logical_not().nonzero()[0])
        raise LbgnasError(f"{name}: the image of sample id {first} has a pixel that is not finite")
    inside = ((flat >= 0) & (flat <= 1)).all(1)
    if not inside.all():
        first = int(inside.logical_not().nonzero()[0])
        raise LbgnasError(f"{name}: the image of sample id {first} has a pixel outside 0 to 1")


def whole_numbers(values: torch.Tensor, count: int, below: int | None, what: str, least: int = 0) -> torch.Tensor:
    """Return `count` whole numbers as long on the CPU; LbgnasError if one is under `least` or not under `below`."""
    if values.is_floating_point() or values.is_complex() or tuple(values.shape) != (count,):
        shape = "x".join(map(str, values.shape))
        raise LbgnasError(f"{what}s are {values.dtype} of shape {shape}, they must be {count} whole numbers")
    numbers = values.detach().cpu().long().contiguous()
    wrong = numbers < least if below is None else (numbers < least) | (numbers >= below)
    if wrong.any():
        first = int(wrong.nonzero()[0])
        allowed = f"{least} or more" if below is None else f"{least} to {below - 1}"
        raise LbgnasError(f"{what} {int(numbers[first])} of sample id {first} is not allowed; it must be {allowed}")
    return numbers


def checked_ids(ids: torch.Tensor, count: int) -> torch.Tensor:
    """Return sample ids as long on the CPU; LbgnasError unless all are 0 to `count - 1`."""
    ids = ids.detach().cpu().long()
    wrong = ids[(ids < 0) | (ids >= count)]
    if len(wrong):
        raise LbgnasError(f"sample id {int(wrong[0])} is not in the data; allowed are 0 to {count - 1}")
    return ids
