"""Handwritten digits in two colours: scikit-learn's digits with a sensitive attribute.

The colour is synthetic. It tells something of the label in the pool and nothing in the test split, so that a
classifier that leans on it is found out.
"""

from __future__ import annotations

from typing import Literal

import torch

from lbgnas.data.image_data import DataInfo, TensorImages
from lbgnas.data.seeds import generator
from lbgnas.data.split import stratified_halves
from lbgnas.data.synthetic import assigned, painted
from lbgnas.data.transforms import resized

NAME = "coloured-digits"
POOL_AGREEMENT = 0.8
TEST_AGREEMENT = 0.5
TEST_PORTION = 0.25

_ROUND = (0, 3, 6, 8, 9)
_SIZE = 8


def load(part: Literal["pool", "test"], size: int | None = None) -> TensorImages:
    """Return the pool (three quarters of 1,797 digits) or the test split.

    Label 1: the digits 0, 3, 6, 8 and 9; label 0: the others. Attribute: 0 red, 1 green. P(colour = label) is
    0.8 in the pool and 0.5 in the test split, within each label, exact up to rounding. Split and colours
    are the same in every run, whatever its seed.

    Args:
        part: which of the two.
        size: side in pixels; None for 8, the digits' own.
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    digits = torch.from_numpy(source.target).long()
    grey = torch.from_numpy(source.images).unsqueeze(1).mul(255 / 16).round().byte()
    grey = resized(grey, size or _SIZE)
    labels = torch.isin(digits, torch.tensor(_ROUND)).long()

    test, pool = stratified_halves(digits, TEST_PORTION, generator(0, NAME, "test split"))
    colours = torch.empty_like(labels)
    for rows, agreement, name in ((pool, POOL_AGREEMENT, "pool"), (test, TEST_AGREEMENT, "test")):
        colours[rows] = assigned(labels[rows], digits[rows], agreement, NAME, "colours", name)
    pixels = painted(grey, colours)

    scaled = pixels[pool].double() / 255
    info = DataInfo(
        name=NAME,
        num_classes=2,
        class_names=("1, 2, 4, 5 or 7", "0, 3, 6, 8 or 9"),
        channels=3,
        size=size or _SIZE,
        mean=tuple(scaled.mean((0, 2, 3)).tolist()),
        std=tuple(scaled.std((0, 2, 3), correction=0).tolist()),
        crop_padding=1,
        flip=False,
        attribute_name="colour",
        attribute_values=("red", "green"),
        note=(
            "the attribute is synthetic: digits were painted red (0) or green (1), with P(colour = label) = "
            f"{POOL_AGREEMENT} in the pool and {TEST_AGREEMENT} in the test split"
        ),
    )
    chosen = pool if part == "pool" else test
    return TensorImages(pixels[chosen], labels[chosen], info, colours[chosen])
