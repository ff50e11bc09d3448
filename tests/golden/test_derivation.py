from __future__ import annotations

import re

import numpy as np
import pytest

from lbgnas.bases.base import find_base
from lbgnas.space import load_space
from tests.golden import reference


def parse(text):
    """The references print a tuple of lists; read its pairs without running it."""
    cells = re.findall(r"(normal|reduce)=\[(.*?)\]", text)
    return {k: tuple((op, int(i)) for op, i in re.findall(r"\('(\w+)', (\d)\)", v)) for k, v in cells}


CASES = [
    (base, key)
    for base, file in (("darts", "derive_darts"), ("pcdarts", "derive_pc"))
    for key in reference.golden(file)
]


@pytest.mark.parametrize(("base", "key"), CASES)
def test_derivation_equals_reference(base, key):
    expected = parse(reference.golden({"darts": "derive_darts", "pcdarts": "derive_pc"}[base])[key])
    space = load_space(base)
    shapes = space.architecture_shapes
    if key.isdigit():
        values = {
            name: np.random.RandomState(int(key) + i).standard_normal(shape).astype(np.float32)
            for i, (name, shape) in enumerate(shapes.items())
        }
    else:
        values = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    cell = find_base(base).derive(space, values)
    assert cell.normal == expected["normal"]
    assert cell.reduce == expected["reduce"]
    assert cell.normal_concat == cell.reduce_concat == (2, 3, 4, 5)


@pytest.mark.parametrize(
    ("file", "key", "base"),
    [
        ("golden_darts", "supernet.darts.C8.L5", "darts"),
        ("golden_darts", "supernet.darts.C16.L8", "darts"),
        ("golden_pc", "supernet.pcdarts.K4.C8.L5", "pcdarts"),
    ],
)
def test_genotype_of_the_golden_supernets(file, key, base):
    expected = parse(reference.golden(file)[key]["genotype"])
    space = load_space(base)
    values = {
        name: np.random.RandomState(100 + i).standard_normal(shape).astype(np.float32)
        for i, (name, shape) in enumerate(space.architecture_shapes.items())
    }
    cell = find_base(base).derive(space, values)
    assert (cell.normal, cell.reduce) == (expected["normal"], expected["reduce"])
