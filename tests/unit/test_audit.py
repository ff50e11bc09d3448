"""The audit of a file of predictions: what is read, what is refused, what is written."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

import lbgnas.fairness as m
from lbgnas.errors import LbgnasError
from lbgnas.fairness.audit import audit
from lbgnas.report.audit import NO_PLOT, comma_separated, markdown, picture, write_audit
from tests.unit.test_fairness import GOLDEN, A, P, Y

HEAD = "y,p,s,a,b,part\n"
ROWS = [f"{y},{p},0.5,{a},{'uv'[i % 2]},{i // 4}\n" for i, (y, p, a) in enumerate(zip(Y, P, A, strict=True))]


def write(folder: Path, text: str) -> Path:
    path = folder / "p.csv"
    path.write_text(text)
    return path


def run(path: Path, **more):
    return audit(path, **{"label": "y", "prediction": "p", "sensitive": ["a"], "n_boot": 50, **more})


def test_the_worked_example(tmp_path: Path) -> None:
    reports, divergence = run(write(tmp_path, HEAD + "".join(ROWS)), by="part")
    assert list(reports) == ["all", "part 0", "part 1"]
    assert reports["all"].metrics == pytest.approx(GOLDEN)
    assert reports["all"].intervals["dp"].low <= 0.25 <= reports["all"].intervals["dp"].high
    assert reports["part 0"].samples == 4
    assert divergence is None
    assert "Group b has 0 samples, so all of its rates are undefined." in reports["part 0"].undefined


def test_signs_other_labels_and_two_attributes(tmp_path: Path) -> None:
    path = write(tmp_path, (HEAD + "".join(ROWS)).replace("1,", "yes,").replace("0,", "no,"))
    signed = run(path, positive="yes", privileged="b")[0]["all"]
    assert {name: signed.metrics[name] for name in ("spd", "eod", "aod")} == {"spd": -0.25, "eod": -0.5, "aod": 0}
    both = run(path, positive="yes", sensitive=["a", "b"], privileged="a & u")[0]["all"]
    assert {cell.attribute_name for cell in both.cells} == {"a & u", "a & v", "b & u", "b & v"}
    assert both.privileged == "a & u"


def test_more_than_two_labels(tmp_path: Path) -> None:
    path = write(tmp_path, "y,p,a\n" + "".join(f"{i % 3},{i * i % 3},{i % 2}\n" for i in range(60)))
    labels, predicted = [i % 3 for i in range(60)], [i * i % 3 for i in range(60)]
    found = run(path)[0]["all"]
    assert list(found.per_class) == ["0", "1", "2"]
    assert found.metrics["dp"] == m.dp(labels, predicted, sensitive_features=[i % 2 for i in range(60)])
    assert run(path, positive="1")[0]["all"].per_class == {}
    with pytest.raises(LbgnasError, match="--score: needs --positive"):
        run(path, score="y")


def test_missing_sensitive_values_are_dropped(tmp_path: Path) -> None:
    found = run(write(tmp_path, HEAD + "".join(ROWS) + "1,0,0.5,,u,0\n\n"))[0]["all"]
    assert (found.samples, found.dropped) == (8, 1)


def test_scores(tmp_path: Path) -> None:
    scores = [0.9, 0.4, 0.1, 0.7, 0.9, 0.8, 0.6, 0.2]
    rows = [row.replace("0.5", str(score)) for row, score in zip(ROWS, scores, strict=True)]
    _, found = run(write(tmp_path, HEAD + "".join(rows)), score="s")
    want = m.kl_score_divergence(Y, scores, sensitive_features=A)
    assert found.values == want.values
    assert found.median is not None
    assert "negative label, a against b" in markdown("x", {}, found)
    assert "all,kl,positive,a || b," in comma_separated({}, found)


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        (HEAD + "1,0,0.5\n", {}, "line 2 has 3 fields, the header has 6"),
        (HEAD + "1,,0.5,a,u,0\n", {}, "line 2 has nothing in column 'p'"),
        (HEAD, {}, "no row below its header"),
        ("", {}, "unknown column 'y'"),
        (HEAD + "1,0,0.5,a,u,0\n", {"sensitive": ["aa"]}, "unknown column 'aa'; .* did you mean 'a'"),
        (HEAD + "1,0,x,a,u,0\n", {"score": "s"}, "column 's' holds 'x', which is no number"),
        (HEAD + "1,0,1.5,a,u,0\n", {"score": "s"}, "y_score: 1.5 at index 0"),
        (HEAD + "cat,dog,0,a,u,0\n", {}, "--positive: needed for the labels cat and dog"),
        (HEAD + "cat,dog,0,a,u,0\n", {"positive": "cow"}, "--positive: unknown label 'cow'"),
        (HEAD + "1,0,0,a,u,0\n", {"privileged": "c"}, "privileged: unknown group 'c'"),
        (HEAD + "1,0,0,,u,0\n", {}, "all 1 values are missing"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path: Path, text: str, more: dict, message: str) -> None:
    with pytest.raises(LbgnasError, match=message) as caught:
        run(write(tmp_path, text), **more)
    assert "\n" not in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(LbgnasError, match="cannot be read as CSV"):
        run(tmp_path / "none.csv")


def test_files_and_the_plot(tmp_path: Path) -> None:
    reports, _ = run(write(tmp_path, HEAD + "".join(ROWS)), by="part")
    paths, amiss = write_audit(tmp_path / "out" / "audit", "mine", reports)
    assert ([path.name for path in paths], amiss) == (["audit.md", "audit.csv", "audit.svg"], "")
    with paths[1].open() as file:
        rows = list(csv.DictReader(file))
    values = {(row["part"], row["metric"]): row for row in rows if not row["label"]}
    assert float(values["all", "deo_sum"]["value"]) == 1
    assert float(values["all", "deo_sum"]["low"]) == reports["all"].intervals["deo_sum"].low
    assert values["part 0", "dp"]["value"] == ""
    cells = [row for row in rows if row["metric"] == "cell_accuracy" and row["part"] == "all"]
    assert (cells[0]["label"], cells[0]["group"], cells[0]["count"]) == ("0", "a", "2")
    drawn = paths[2].read_text()
    assert drawn.startswith("<?xml")
    for words in ("mine", "part 1", "0, a (2)", "deo_opp", "undefined"):
        assert f">{words}<" in drawn
    assert picture("mine", reports) == drawn


def test_without_matplotlib_the_rest_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    reports, _ = run(write(tmp_path, HEAD + "".join(ROWS)))
    paths, amiss = write_audit(tmp_path / "audit", "mine", reports)
    assert [path.suffix for path in paths] == [".md", ".csv"]
    assert amiss == NO_PLOT
