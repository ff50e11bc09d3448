"""A golden example of every fairness metric, and random cases."""

import functools
import warnings

import numpy as np
import pytest
from hypothesis import strategies as st

import lbgnas.fairness as m

Y = [1, 1, 0, 0, 1, 1, 1, 0]
P = [1, 0, 0, 1, 1, 1, 1, 0]
A = ["a"] * 4 + ["b"] * 4
GOLDEN = {
    "dp": 0.25,
    "spd": 0.25,
    "eod": 0.5,
    "aod": 0.0,
    "abs_aod": 0.5,
    "deo_sum": 1.0,
    "deo_max": 0.5,
    "deo_opp": 0.5,
    "tprd": 0.5,
    "max_fnr": 0.5,
    "fprd": 0.5,
    "max_fpr": 0.5,
    "worst_group_accuracy": 0.5,
}
RATED = [name for name in GOLDEN if name != "worst_group_accuracy"]
GAPS = [name for name in RATED if not name.startswith("max_")]


def close(a, b):
    return a == pytest.approx(b, abs=1e-12, nan_ok=True)


def quiet(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", m.UndefinedRateWarning)
            return function(*args, **kwargs)

    return inner


def samples(labels=2, groups=3, most=40):
    def rows(n):
        return st.tuples(
            *(
                st.lists(st.integers(0, top - 1), min_size=n, max_size=n).map(np.array)
                for top in (labels, labels, groups)
            )
        )

    return st.integers(1, most).flatmap(rows)


def random_case(seed, labels=2, groups=3, size=300):
    draw = np.random.default_rng(seed)
    return tuple(draw.integers(0, top, size) for top in (labels, labels, groups))
