"""Which data an evaluation takes over from its search, and flags without a value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lbgnas.cli import parse
from lbgnas.config import EvaluationSettings, SearchSettings, validated
from lbgnas.data.sources import open_test
from lbgnas.engine.evaluate import Evaluation
from lbgnas.engine.grouped_model import load_model
from lbgnas.engine.measures import _top5
from lbgnas.engine.result import write_genotype
from lbgnas.errors import LbgnasError
from lbgnas.genotype import published, to_json
from lbgnas.networks.gate import SmallGate
from tests import layouts

TINY = {"network": {"cells": 3, "channels": 4}, "batch_size": 50}


def evaluation(folder: Path, searched: dict, **more) -> Evaluation:
    genotype = json.loads(to_json(published("DARTS_V2")))
    genotype["provenance"] = {"settings": searched}
    (folder / "genotype.json").write_text(json.dumps(genotype))
    small = {"genotype": str(folder / "genotype.json"), "layers": 3, "channels": 4, "limit": 100, "cutout": 0}
    return Evaluation(validated(EvaluationSettings, {**small, **more}, "test"), folder / "run")


def agreement(run: Evaluation) -> float:
    return float((run.data.labels == run.data.attribute).double().mean())


def test_options_of_the_search_are_taken_over_with_its_data(tmp_path: Path) -> None:
    spec = f"coloured-fashion-mnist:{layouts.fashion_mnist(tmp_path / 'data', 1000, 100)}"
    searched = {"data": spec, "rho": 0.7}
    assert agreement(evaluation(tmp_path, searched)) == pytest.approx(0.7)
    assert agreement(evaluation(tmp_path, searched, rho=0.9)) == pytest.approx(0.9)
    assert agreement(evaluation(tmp_path, searched, data=spec)) == pytest.approx(0.7)
    other = evaluation(tmp_path, searched, data="coloured-digits")
    assert other.options.rho is None
    assert other.data.info.name == "coloured-digits"
    with pytest.raises(LbgnasError, match="--rho: coloured-digits takes no such option"):
        evaluation(tmp_path, searched, data="coloured-digits", rho=0.7)


def test_a_flag_that_is_true_needs_no_value() -> None:
    settings, _ = parse(SearchSettings, "search", ["--skip-bad-images", "--data", "folder:x"], "about")
    assert settings.skip_bad_images is True
    assert parse(SearchSettings, "search", [], "about")[0].skip_bad_images is False


def test_an_ensemble_bags_one_architecture_and_answers_with_the_mean(tmp_path: Path) -> None:
    run = evaluation(tmp_path, {"data": "coloured-digits"}, ensemble=3, epochs=1, layers=None, channels=None, **TINY)
    assert len({tuple(rows.tolist()) for rows in run.own}) == 3
    for rows in run.own:
        assert len(rows) == len(run.data) == 100
        assert 50 < len(rows.unique()) < 80
    assert len(set(run.sizes)) == 1
    measures = run.run()
    test = open_test("coloured-digits", limit=100)
    model = load_model(tmp_path / "run")
    prepared = model._prepared(test.images(torch.arange(100)))
    mean = torch.stack([expert(prepared)[0].softmax(1) for expert in model.experts]).mean(0)
    assert measures.mixture == pytest.approx(float((mean.argmax(1) == test.labels).float().mean()))
    told = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (told["base"], told["grouping"], told["routed_top5_accuracy"]) == ("darts", "none", None)


def test_an_ensemble_of_a_genotype_with_experts_is_refused(tmp_path: Path) -> None:
    cells = published("DARTS_V2").experts * 2
    settings = validated(SearchSettings, {"grouping": "lbg"}, "test")
    path = write_genotype(tmp_path, settings, "darts", cells, SmallGate(3, 2), {})
    with pytest.raises(LbgnasError, match=r"--ensemble 2: .* has 2 experts; a genotype with one is needed"):
        Evaluation(validated(EvaluationSettings, {"genotype": str(path), "ensemble": 2}, "test"), tmp_path / "run")


def test_top5_is_whether_the_label_is_among_the_five_likeliest() -> None:
    logits = torch.tensor([[5.0, 4, 3, 2, 1, 0], [0.0, 1, 2, 3, 4, 5]])
    assert _top5(logits, torch.tensor([4, 0])) == 0.5
    assert _top5(logits[:, :5], torch.tensor([4, 0])) is None
