"""Which data an evaluation takes over from its search, and flags without a value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lbgnas.cli import parse
from lbgnas.config import EvaluationSettings, SearchSettings, validated
from lbgnas.engine.evaluate import Evaluation
from lbgnas.errors import LbgnasError
from lbgnas.genotype import published, to_json
from tests import layouts


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
