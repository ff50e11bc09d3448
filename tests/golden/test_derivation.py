"""Genotypes read off the same architecture parameters as by the published implementations."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lbgnas.bases.base import find_base
from lbgnas.bases.pdarts import kept_candidates, prune
from lbgnas.space import CANDIDATES, KINDS, load_space
from tests.golden import reference


def parse(text):
    """The references print a tuple of lists; read its pairs without running it."""
    cells = re.findall(r"(normal|reduce)=\[(.*?)\]", text)
    return {k: tuple((op, int(i)) for op, i in re.findall(r"\('(\w+)', (\d)\)", v)) for k, v in cells}


def drawn(seed, shape):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


MINUS = {"s1": "darts-minus-s1", "s2": "darts-minus-s2", "s3": "darts-minus-s3"} | {
    "s4": "darts-minus-s4",
    "s5": "darts-minus-s0",
}
CASES = [
    *[("darts", "darts", key, text) for key, text in reference.golden("derive_darts").items()],
    *[("pcdarts", "pcdarts", key, text) for key, text in reference.golden("derive_pc").items()],
    *[("darts-", MINUS[key.split()[0]], key.split()[-1], t) for key, t in reference.golden("derive_dm").items()],
]


@pytest.mark.parametrize(("base", "name", "key", "text"), CASES, ids=[f"{name} {key}" for _, name, key, _ in CASES])
def test_derivation_equals_reference(base, name, key, text):
    expected = parse(text)
    space = load_space(name)
    shapes = space.architecture_shapes
    if key.isdigit():
        values = {name: drawn(int(key) + i, shape) for i, (name, shape) in enumerate(shapes.items())}
    else:
        values = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    cell = find_base(base).derive(space, values)
    assert cell.normal == expected["normal"]
    assert cell.reduce == expected["reduce"]
    assert cell.normal_concat == cell.reduce_concat == (2, 3, 4, 5)


@pytest.mark.parametrize(
    ("file", "key", "base", "name"),
    [
        ("golden_darts", "supernet.darts.C8.L5", "darts", "darts"),
        ("golden_darts", "supernet.darts.C16.L8", "darts", "darts"),
        ("golden_pc", "supernet.pcdarts.K4.C8.L5", "pcdarts", "pcdarts"),
        *[
            ("golden_dm", key, "darts-", MINUS[key.split(".")[2]])
            for key in reference.golden("golden_dm")
            if "epoch0" in key
        ],
    ],
)
def test_genotype_of_the_golden_supernets(file, key, base, name):
    expected = parse(reference.golden(file)[key]["genotype"])
    space = load_space(name)
    values = {name: drawn(100 + i, shape) for i, (name, shape) in enumerate(space.architecture_shapes.items())}
    cell = find_base(base).derive(space, values)
    assert (cell.normal, cell.reduce) == (expected["normal"], expected["reduce"])


PIPELINES = {"seed 0": (0, 0.0), "seed 100, skip bias 2": (100, 2.0), "seed 200 bias 3": (200, 3.0)}


def bits(names):
    return "".join(str(int(name in names)) for name in CANDIDATES)


def stage_alphas(space, seed, bias):
    values = {}
    for index, kind in enumerate(KINDS):
        alphas = drawn(seed + index, space.architecture_shapes[f"alphas_{kind}"]).astype(np.float64)
        for row, names in enumerate(space.operations[kind]):
            if "skip_connect" in names:
                alphas[row, names.index("skip_connect")] += bias
        values[f"alphas_{kind}"] = alphas
    return values


@pytest.mark.parametrize("key", PIPELINES)
def test_stages_of_pdarts_equal_reference(key):
    expected = reference.golden("derive_pdarts")[key]
    seed, bias = PIPELINES[key]
    base, space = find_base("pdarts"), load_space("pdarts")
    for stage, share in enumerate(base.kept[1:]):
        values = stage_alphas(space, seed + 2 * stage, bias)
        space = prune(space, values, dict.fromkeys(KINDS, kept_candidates(share, 8)))
        for kind, wanted in zip(KINDS, expected["stage_switches"][stage], strict=True):
            assert [bits(names) for names in space.operations[kind]] == wanted
    values = stage_alphas(space, seed + 4, bias)
    free = base.derive(space, values)
    assert {"normal": free.normal, "reduce": free.reduce} == parse(expected["unrestricted"])
    assert free.skips("normal") == expected["skips"]
    limits = {int(name.removeprefix("M<=")): text for name, text in expected.items() if name.startswith("M<=")}
    assert sorted(limits) == list(range(expected["skips"]))
    for most in range(9):
        cell = base.derive(space, values, max_skips=most)
        wanted = parse(limits.get(most, expected["unrestricted"]))
        assert cell.normal == wanted["normal"], most
        assert cell.reduce == free.reduce
        assert cell.skips("normal") <= most
