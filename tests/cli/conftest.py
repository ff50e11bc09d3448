from __future__ import annotations

import pytest

from tests.small import EVALUATE, SEARCH, run


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """One uninterrupted search, two experts with adaptation, and its evaluation."""
    folder = tmp_path_factory.mktemp("whole")
    done = run("search", "--base", "pcdarts", "--grouping", "dalbg", *SEARCH, "--out", folder / "search")
    assert done.returncode == 0, done.stderr
    genotype = folder / "search" / "genotype.json"
    evaluated = run("evaluate", "--genotype", genotype, *EVALUATE, "--out", folder / "evaluate")
    assert evaluated.returncode == 0, evaluated.stderr
    return folder, done.stdout, evaluated.stdout
