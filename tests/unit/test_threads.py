"""How many threads a tool takes of the CPU."""

from __future__ import annotations

import pytest

from lbgnas.cli import parse
from lbgnas.config import SearchSettings
from lbgnas.errors import LbgnasError


@pytest.mark.parametrize(
    ("given", "variable", "default", "taken"),
    [
        ([], None, 1, 1),
        ([], None, None, None),
        ([], "4", 1, None),  # torch reads the variable itself
        (["--threads", "3"], "4", 1, 3),
    ],
)
def test_the_flag_goes_before_the_variable_before_the_tools_own_number(monkeypatch, given, variable, default, taken):
    monkeypatch.delenv("OMP_NUM_THREADS")
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert parse(SearchSettings, "search", given, "about", threads=default)[1].threads == taken


def test_no_threads_are_refused():
    with pytest.raises(LbgnasError, match="--threads"):
        parse(SearchSettings, "search", ["--threads", "0"], "about")
