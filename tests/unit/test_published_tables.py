"""The tables in README and docs are those of the rows that benchmarks wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import planted_groups, real_images

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
SHORT = {
    "one network": "base",
    "k-means groups, class-balanced": "k-means, class-balanced",
    "lbg, class-balanced": "lbg, class-balanced",
    "dalbg, class-balanced": "dalbg, class-balanced",
    "Group DRO": "group DRO (told the attribute)",
}


def lines(path: str) -> list[str]:
    return (ROOT / path).read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(("name", "least"), [("real-images", 60), ("real-images-4-epochs", 6)])
def test_the_tables_of_real_images(name: str, least: int) -> None:
    rows = list(real_images.rows_of(RESULTS / f"{name}.jsonl").values())
    made = [line for line in real_images.table(rows).splitlines() if line]
    assert len(made) >= least
    assert [line for line in made if line not in lines("docs/real-images.md")] == []


@pytest.mark.parametrize(
    ("name", "small", "least"),
    [("planted-groups", False, 15), ("planted-groups", True, 15), ("remedies", False, 20)],
)
def test_the_tables_of_planted_groups(name: str, small: bool, least: int) -> None:
    rows = json.loads((RESULTS / f"{name}.json").read_text())
    own = [row for row in rows if ("supernets" in row["problem"]) == small]
    made = planted_groups.summary(own).splitlines()
    assert len(made) >= least
    assert [line for line in made if line not in lines("docs/grouping.md")] == []


def test_the_table_of_the_readme() -> None:
    rows = list(real_images.rows_of(RESULTS / "real-images.jsonl").values())
    told = {name: line for line in lines("README.md") for name in SHORT if line.startswith(f"| {name} |")}
    assert told.keys() == SHORT.keys()
    for name, line in told.items():
        own = [
            row
            for row in rows
            if (row["data"], row["base"], row["method"]) == ("coloured-fashion-mnist", "pcdarts", SHORT[name])
        ]
        assert len(own) == 5
        assert line.split(" | ")[1:3] == [real_images.cell(own, "error"), real_images.cell(own, "worst_cell")]
