"""Fashion-MNIST and CIFAR-10 with a synthetic attribute that tells of the label in the pool, not in the test split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from lbgnas.data import cifar, fashion_mnist
from lbgnas.data.image_data import DataInfo, TensorImages
from lbgnas.data.seeds import generator
from lbgnas.data.split import stratified_halves
from lbgnas.data.synthetic import assigned, drained, marked, painted, painted_statistics

COLOURED_FASHION, MARKED_FASHION, COLOURED_CIFAR = "coloured-fashion-mnist", "marked-fashion-mnist", "coloured-cifar10"
TOPS = (0, 2, 3, 4, 6)
RHO = 0.95
MARKED_BALANCED = 0.05

_TEST_RHO = 0.5
_FASHION_SIZE = 14
_MARK_STRENGTH = 100
_MARK_SIDE = 3 / 14

Part = Literal["pool", "test"]


def coloured_fashion(
    path: Path | None, part: Part, size: int | None = None, rho: float = RHO, balanced: float = 0.0
) -> TensorImages:
    """Return Fashion-MNIST in two classes, painted: label 1 tops, 0 the others; attribute 0 red, 1 green.

    Args:
        path: as for Fashion-MNIST.
        part: the pool (60,000 images) or the test split (10,000).
        size: side in pixels; None for 14.
        rho: P(colour = label) in the pool outside its balanced part; in the test split it is 0.5.
        balanced: share of the pool where it is 0.5 too; a search keeps all of it in its validation half.
    """
    articles = fashion_mnist.load(path, part, size or _FASHION_SIZE)
    tops = _tops(articles)
    colours, held = _attribute(COLOURED_FASHION, part, tops, articles.labels, rho, balanced)
    mean, std = painted_statistics(articles.info.mean[0], articles.info.std[0])
    info = replace(
        _two_classes(articles),
        name=COLOURED_FASHION,
        channels=3,
        mean=mean,
        std=std,
        attribute_name="colour",
        attribute_values=("red", "green"),
        note=_note("images were painted red (0) or green (1)", "colour = label", rho, balanced),
    )
    return TensorImages(painted(articles.pixels, colours), tops, info, colours, held)


def marked_fashion(
    path: Path | None, part: Part, size: int | None = None, rho: float = RHO, balanced: float = MARKED_BALANCED
) -> TensorImages:
    """Return grey Fashion-MNIST in the same two classes; attribute 1: a small faint square near a corner.

    Arguments are those of `coloured_fashion`.
    """
    articles = fashion_mnist.load(path, part, size or _FASHION_SIZE)
    tops = _tops(articles)
    marks, held = _attribute(MARKED_FASHION, part, tops, articles.labels, rho, balanced)
    info = replace(
        _two_classes(articles),
        name=MARKED_FASHION,
        attribute_name="mark",
        attribute_values=("without", "with"),
        note=_note("images got a small faint square (1) or none (0)", "mark = label", rho, balanced),
    )
    side = max(1, round(info.size * _MARK_SIDE))
    return TensorImages(marked(articles.pixels, marks, _MARK_STRENGTH, side), tops, info, marks, held)


def coloured_cifar10(
    path: Path, part: Part, size: int | None = None, rho: float = RHO, balanced: float = 0.0
) -> TensorImages:
    """Return CIFAR-10 with its ten classes; attribute 0: made grey, 1: left in colour.

    Classes of odd number (automobile, cat, dog, horse, truck) agree with colour, the others with grey, after
    the domain-bias CIFAR of Wang et al. (2020, arXiv:1911.11834). Arguments are those of `coloured_fashion`.
    """
    plain = cifar.cifar10(path, part, size)
    sides = plain.labels % 2
    colours, held = _attribute(COLOURED_CIFAR, part, sides, plain.labels, rho, balanced)
    info = replace(
        plain.info,
        name=COLOURED_CIFAR,
        attribute_name="colour",
        attribute_values=("grey", "coloured"),
        note=_note("images were made grey (0) or left in colour (1)", "colour = label modulo 2", rho, balanced),
    )
    return TensorImages(drained(plain.pixels, colours), plain.labels, info, colours, held)


def _tops(articles: TensorImages) -> torch.Tensor:
    return torch.isin(articles.labels, torch.tensor(TOPS)).long()


def _two_classes(articles: TensorImages) -> DataInfo:
    names = articles.info.class_names
    tops = [names[label] for label in TOPS]
    others = [name for name in names if name not in tops]
    said = tuple(f"{', '.join(group[:-1])} or {group[-1]}" for group in (others, tops))
    return replace(articles.info, num_classes=2, class_names=said, crop_padding=articles.info.size // 14)


def _attribute(
    name: str, part: Part, sides: torch.Tensor, strata: torch.Tensor, rho: float, balanced: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the attribute, and which samples are the balanced part (None where there is none)."""
    if part == "test":
        return assigned(sides, strata, _TEST_RHO, name, "test"), None
    rows, others = stratified_halves(strata, balanced, generator(0, name, "balanced"))
    values = torch.empty_like(sides)
    values[rows] = assigned(sides[rows], strata[rows], _TEST_RHO, name, "balanced")
    values[others] = assigned(sides[others], strata[others], rho, name, "pool")
    held = torch.zeros(len(sides), dtype=torch.bool)
    held[rows] = True
    return values, held if len(rows) else None


def _note(made: str, event: str, rho: float, balanced: float) -> str:
    text = f"the attribute is synthetic: {made}, with P({event}) = {rho} in the pool and {_TEST_RHO} in the test split"
    if balanced:
        text += (
            f"; {balanced:.1%} of the pool, all in the validation half of a search, are balanced like the test split"
        )
    return text
