"""The paper's tables: laid out from result files, made small on stand-ins, and the figures no classifier can have."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks import paper_tables
from benchmarks.least_error import least_error
from benchmarks.paper_tables import SETTINGS, TABLES, cell, commands, layout, read_runs, small
from lbgnas.bases.base import find_base
from lbgnas.cli import parse
from lbgnas.config import EvaluationSettings, SearchSettings, load_preset, merged, validated
from lbgnas.data.sources import DATA_NAMES
from lbgnas.engine.plan import Plan, space_of
from lbgnas.errors import LbgnasError
from lbgnas.group_settings import GroupSettings

METRICS = {"dp": 0.2, "deo_sum": 0.3, "deo_max": 0.25, "spd": 0.2, "eod": None, "aod": 0.1, "abs_aod": 0.15}
SCHEMAS = {"train_groups": GroupSettings, "search": SearchSettings, "evaluate": EvaluationSettings}
SECTIONS = {"train_groups": "groups", "search": "search", "evaluate": "evaluation"}


def finished(folder: Path, settings: dict, data: str, accuracy: float, **more) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": 0, **settings}))
    parts = {"routed": {"metrics": METRICS, "collapsed": False}, "mixture": {"metrics": {}, "collapsed": False}}
    found = {"routed_accuracy": accuracy, "mixture_accuracy": 0.5, "routed_top5_accuracy": 0.9, "parameters": 1.5e6}
    (folder / "results.json").write_text(json.dumps({**found, "fairness": parts, "data": data, **more}))
    return folder


def own_data(number: str) -> dict:
    table = TABLES[number]
    return {**table, "stand_ins": {row["data"]: [row["data"]] for row in table["rows"]}}


def rows_of(text: str) -> dict[tuple[str, str], dict[str, str]]:
    lines = [[part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {(line[0], line[1]): dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


def test_the_tables_are_whole():
    assert list(TABLES) == ["1", "2", "3", "4", "5", "10"]
    assert [len(table["rows"]) for table in TABLES.values()] == [6, 4, 21, 18, 6, 4]
    for table in TABLES.values():
        assert len({(row["name"], row["data"]) for row in table["rows"]}) == len(table["rows"])
        for row in table["rows"]:
            assert list(row["published"]) == table["metrics"]
            assert row["data"] in SETTINGS["commands"]
            assert set(table["stand_ins"][row["data"]]) <= set(DATA_NAMES)


def test_results_stand_beside_the_published_figures(tmp_path):
    for seed, accuracy in enumerate((0.8, 0.9)):
        finished(tmp_path / f"a{seed}", {"method": "lbg", "experts": "resnet18", "seed": seed}, "celeba", accuracy)
    search = tmp_path / "b" / "search"
    search.mkdir(parents=True)
    (search / "metrics.jsonl").write_text('{"seconds": 43200}\n{"seconds": 43200}\n')
    searched = {"genotype": str(search / "genotype.json"), "ensemble": None}
    finished(tmp_path / "b" / "evaluate", searched, "celeba", 0.75, base="darts", grouping="none")
    found = read_runs([tmp_path], own_data("1"))
    shown = rows_of(layout(own_data("1"), found, {"celeba": "data not here"}))
    lbg = shown["LBG-ResNet18", "celeba"]
    assert (lbg["error (%), paper"], lbg["error (%), ours"], lbg["runs"]) == ("17.02", "15.00 ± 7.07", "2")
    assert (lbg["deo, ours"], lbg["deo_max, ours"]) == ("0.3000 ± 0.0000", "0.2500 ± 0.0000")
    assert shown["DARTS", "celeba"]["error (%), ours"] == "25.00"
    assert shown["DALBG-DARTS", "celeba"]["error (%), ours"] == "data not here"
    assert found[-1].values["cost"] == 1


def test_an_ensemble_answers_with_its_mixture_and_what_is_undefined_is_said(tmp_path):
    bagged = {"genotype": "somewhere", "ensemble": 3}
    finished(tmp_path / "a", bagged, "cifar100", 0.9, base="darts", grouping="none")
    found = read_runs([tmp_path], own_data("10"))
    assert (
        rows_of(layout(own_data("10"), found, {"cifar100": "not run"}))["Ensemble+DARTS-2nd", "cifar100"][
            "error (%), ours"
        ]
        == "50.00"
    )
    finished(tmp_path / "isic", {"method": "erm", "experts": "resnet18"}, "isic18", 0.9)
    found = read_runs([tmp_path / "isic"], own_data("2"))
    assert (
        rows_of(layout(own_data("2"), found, {"isic18": "not run"}))["ResNet18", "isic18"]["eod, ours"] == "undefined"
    )
    assert (cell([]), cell([None]), cell([0.5]), cell([12.0])) == ("", "undefined", "0.5000", "12.00")


def test_folders_that_do_not_fit_are_named(tmp_path, capsys):
    erm = {"method": "erm", "experts": "resnet56"}
    finished(tmp_path / "a", erm, "cifar10", 0.9)
    assert read_runs([tmp_path / "a"], own_data("1")) == []
    assert "is no row of this table" in capsys.readouterr().err
    finished(tmp_path / "b", erm, "cifar10", 0.9)
    with pytest.raises(LbgnasError, match=r"b: the same row and seed as .*a; leave one out"):
        read_runs([tmp_path / "a", tmp_path / "b"], own_data("3"))
    with pytest.raises(LbgnasError, match=r"--runs .*/c: no results\.json is there or below"):
        read_runs([tmp_path / "c"], own_data("3"))
    (tmp_path / "b" / "results.json").write_text("{}")
    with pytest.raises(LbgnasError, match="b: holds no result of this version"):
        read_runs([tmp_path / "b"], own_data("3"))


def test_every_command_is_one_that_its_tool_takes():
    for number, table in TABLES.items():
        for line in commands(table, number, {"cifar10": "cifar10:/data"}, [3]):
            python, tool, *given = shlex.split(line)
            assert python == "python"
            name = Path(tool).stem
            settings, flags = parse(SCHEMAS[name], SECTIONS[name], given, "about")
            assert settings.seed == 3
            assert flags.out is not None
            assert "cifar10:PATH" not in line


def test_the_small_form_runs_its_rows_once(tmp_path, monkeypatch):
    rows = [row for row in TABLES["2"]["rows"] if row["name"] in ("ResNet18", "DARTS")]
    table = {**TABLES["2"], "rows": rows, "stand_ins": {"isic18": ["coloured-digits"]}}
    options = argparse.Namespace(limit=20, epochs=1, seeds=[0], out=tmp_path)
    found = small(table, options)
    assert [result.run for result in found] == [row["run"] for row in rows]
    for result in found:
        measured = json.loads((result.folder / "results.json").read_text())
        assert measured["samples"] == 20
        assert result.values["error"] == 100 * (1 - measured["routed_accuracy"])
        assert result.values["spd"] == measured["fairness"]["routed"]["metrics"]["spd"]
    assert found[1].values["cost"] > 0
    monkeypatch.setattr(paper_tables.runpy, "run_path", lambda path: pytest.fail(f"{path} was run again"))
    assert small(table, options) == found
    with pytest.raises(pytest.fail.Exception, match="was run again"):
        small(table, argparse.Namespace(**{**vars(options), "epochs": 2}))


@pytest.mark.parametrize("kind", ["sum", "max"])
def test_no_classifier_errs_less_than_the_least_error(kind):
    rates, share, draw = np.array([0.6, 0.3]), 0.4, np.random.default_rng(0)
    weights = np.array([1 - share, share])
    for _ in range(8):
        tpr, fpr = draw.random((2, 2))
        error = float((weights * (rates * (1 - tpr) + (1 - rates) * fpr)).sum())
        selected = rates * tpr + (1 - rates) * fpr
        gaps = abs(tpr[0] - tpr[1]), abs(fpr[0] - fpr[1])
        deo = sum(gaps) if kind == "sum" else max(gaps)
        assert least_error(abs(selected[0] - selected[1]), deo, kind, tuple(rates), share) <= error + 1e-9
    # The truth itself, and one answer for all: the smaller class is lost.
    assert least_error(0.3, 0, kind, tuple(rates), share) == pytest.approx(0, abs=1e-9)
    assert least_error(0, 0, kind, (0.5, 0.0), 0.5) == pytest.approx(0.25)
    assert np.isnan(least_error(1, 0, kind, tuple(rates), share))


@pytest.mark.parametrize("base", ["darts", "pdarts", "pcdarts", "darts-"])
def test_the_laptop_form_searches_with_sizes_that_every_base_allows(base):
    own = {**SETTINGS["laptop"]["search"], "base": base, "grouping": "lbg"}
    settings = validated(SearchSettings, merged(load_preset("quick", "search", base), own), "laptop")
    found = find_base(base)
    assert len(Plan(settings, found, space_of(settings, found)).stages) == len(found.kept)
