"""What search and evaluation networks share: where cells reduce, how wide they are, and the stems."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, NamedTuple

from torch import Tensor, nn

from lbgnas.errors import LbgnasError

Stem = Literal["cifar", "imagenet"]

THIRDS = (Fraction(1, 3), Fraction(2, 3))
"""Where the published networks halve the size, as fractions of the depth."""


class CellPlace(NamedTuple):
    """One cell's place in a network: its width, whether it or the one before reduces, and its inputs' widths."""

    channels: int
    reduction: bool
    after_reduction: bool
    before_last_channels: int
    last_channels: int


def reduction_cells(num_cells: int, points: tuple[Fraction, ...] = THIRDS) -> tuple[int, ...]:
    """Return the indices of the cells that halve the size and double the width: floor(point * L), each once.

    Example:
        >>> reduction_cells(5), reduction_cells(8), reduction_cells(20)
        ((1, 3), (2, 5), (6, 13))
    """
    return tuple(sorted({int(point * num_cells) for point in points}))


def cell_places(
    num_cells: int,
    channels: int,
    stem_channels: int,
    widths: tuple[int, int],
    after_stem_reduction: bool,
    points: tuple[Fraction, ...] = THIRDS,
) -> list[CellPlace]:
    """Return the place of every cell.

    Args:
        num_cells: L.
        channels: C of the first cell.
        stem_channels: width of both inputs of the first cell.
        widths: how many states a normal and a reduction cell concatenate.
        after_stem_reduction: whether the first cell's older input is twice as large as the newer (ImageNet stem).
        points: where cells reduce, as fractions of the depth.
    """
    reductions = reduction_cells(num_cells, points)
    places = []
    older = last = stem_channels
    after = after_stem_reduction
    for index in range(num_cells):
        reduction = index in reductions
        if reduction:
            channels *= 2
        places.append(CellPlace(channels, reduction, after, older, last))
        older, last = last, channels * widths[reduction]
        after = reduction
    return places


class CifarStem(nn.Module):
    """A 3x3 convolution and batch norm, no ReLU; both inputs of the first cell are its output."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two inputs of the first cell."""
        state = self.norm(self.conv(x))
        return state, state


class ImageNetStem(nn.Module):
    """Three 3x3 convolutions of stride 2; the first cell sees the outputs of the second and the third."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.conv_1 = nn.Conv2d(in_channels, half, 3, stride=2, padding=1, bias=False)
        self.norm_1 = nn.BatchNorm2d(half)
        self.conv_2 = nn.Conv2d(half, out_channels, 3, stride=2, padding=1, bias=False)
        self.norm_2 = nn.BatchNorm2d(out_channels)
        self.conv_3 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1, bias=False)
        self.norm_3 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two inputs of the first cell, the older twice as large."""
        older = self.norm_2(self.conv_2(nn.functional.relu(self.norm_1(self.conv_1(x)))))
        newer = self.norm_3(self.conv_3(nn.functional.relu(older)))
        return older, newer


def build_stem(stem: Stem, in_channels: int, out_channels: int) -> nn.Module:
    """Return the stem of a network."""
    return {"cifar": CifarStem, "imagenet": ImageNetStem}[stem](in_channels, out_channels)


def size_multiple(num_cells: int, stem: Stem, points: tuple[Fraction, ...] = THIRDS) -> int:
    """Return what the sides of images must be multiples of, in pixels.

    Example:
        >>> size_multiple(8, "cifar"), size_multiple(14, "imagenet")
        (4, 32)
    """
    return int(2 ** len(reduction_cells(num_cells, points))) * (8 if stem == "imagenet" else 1)


def check_size(height: int, width: int, num_cells: int, stem: Stem, points: tuple[Fraction, ...] = THIRDS) -> None:
    """Refuse sizes that the reductions cannot halve.

    Raises:
        LbgnasError: names the size and the nearest ones that work.
    """
    step = size_multiple(num_cells, stem, points)
    for side in (height, width):
        if side % step or side == 0:
            below, above = side // step * step, -(-side // step) * step
            works = " or ".join(str(size) for size in dict.fromkeys((below, max(above, step))) if size)
            raise LbgnasError(
                f"images of {height}x{width}: {num_cells} cells halve the size so that sides must be multiples of "
                f"{step}; the nearest that works is {works}"
            )
