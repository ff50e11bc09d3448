"""What a sweep varies, one trial, and the table; NNI's part is tested where NNI is installed."""

from __future__ import annotations

import csv
import json
import socket

import pytest

from lbgnas.errors import LbgnasError
from lbgnas.sweep import trial
from lbgnas.sweep.experiment import free_port
from lbgnas.sweep.plan import SweepSettings, assignment, trial_name, trial_settings
from lbgnas.sweep.table import rows_of, summary, write_table
from lbgnas.sweep.trial import ROW, TRIALS, run_trial
from tests.small import run

SMALL = {
    "base": "pcdarts",
    "grouping": "dalbg",
    "limit": 40,
    "batch_size": 10,
    "epochs": 1,
    "network.cells": 3,
    "evaluation.epochs": 1,
    "evaluation.network.cells": 3,
    "evaluation.network.channels": 4,
}


def test_every_combination_and_seed_is_a_trial_of_the_grid():
    sweep = SweepSettings(vary={"adaptation_weight": (0, 0.1), "num_experts": (2, 3)}, seeds=(0, 1, 2))
    assert len(sweep.combinations) == 4
    assert {"adaptation_weight": 0.1, "num_experts": 2} in sweep.combinations
    assert sweep.number_of_trials == 12
    assert sweep.search_space["num_experts"] == {"_type": "choice", "_value": [2, 3]}
    assert sweep.search_space["seed"]["_value"] == [0, 1, 2]


def test_other_tuners_take_all_seeds_in_one_trial():
    sweep = SweepSettings(vary={"num_experts": (2, 3)}, tuner="tpe", trials=5)
    assert "seed" not in sweep.search_space
    assert sweep.number_of_trials == 5


def test_a_trial_has_its_own_values_over_the_shared_ones_over_the_preset():
    sweep = SweepSettings(vary={"gate.scouts": (2,)}, fixed={"epochs": 3, "evaluation.epochs": 7, "gate.rate": 0.2})
    search, evaluation = trial_settings(sweep, {"gate.scouts": 2}, 4)
    assert (search.gate.scouts, search.gate.rate, search.epochs, search.seed) == (2, 0.2, 3, 4)
    assert search.batch_size == 128  # of the preset
    assert (evaluation["epochs"], evaluation["seed"]) == (7, 4)


@pytest.mark.parametrize(
    ("vary", "sentence"),
    [
        ({"num_expert": (2,)}, "num_expert=2: unknown key 'num_expert'"),
        ({"num_experts": (99,)}, "num_experts"),
        ({"evaluation.epoch": (2,)}, "did you mean 'epochs'"),
        ({"gate.scout": (2,)}, "did you mean 'scouts'"),
    ],
)
def test_a_setting_that_does_not_exist_or_fit_is_named(vary, sentence):
    with pytest.raises(LbgnasError, match=sentence):
        trial_settings(SweepSettings(vary=vary), {name: values[0] for name, values in vary.items()}, 0)


def test_assignments_are_key_and_value():
    assert assignment("adaptation-weight=0.1", "--set") == ("adaptation_weight", "0.1")
    with pytest.raises(LbgnasError, match="--set epochs: KEY=VALUE is needed"):
        assignment("epochs", "--set")


def test_a_finished_trial_is_read_and_a_stopped_one_goes_on(tmp_path, monkeypatch):
    sweep = SweepSettings(vary={"adaptation_weight": (0.1,)}, fixed=SMALL)
    row = run_trial(tmp_path, sweep, {"adaptation_weight": 0.1}, 0)
    place = tmp_path / TRIALS / trial_name({"adaptation_weight": 0.1}, 0)
    assert row["routed_accuracy"] == json.loads((place / "evaluate" / "results.json").read_text())["routed_accuracy"]
    assert json.loads((place / ROW).read_text()) == row
    (place / ROW).unlink()
    again = run_trial(tmp_path, sweep, {"adaptation_weight": 0.1}, 0)  # from the checkpoints of both runs
    assert {k: v for k, v in again.items() if "minutes" not in k} == {
        k: v for k, v in row.items() if "minutes" not in k
    }
    monkeypatch.setattr(trial, "trial_settings", lambda *_: pytest.fail("a finished trial was run again"))
    assert run_trial(tmp_path, sweep, {"adaptation_weight": 0.1}, 0) == again


def row(weight, seed, accuracy, dp):
    return {
        "adaptation_weight": weight, "seed": seed, "routed_accuracy": accuracy, "mixture_accuracy": accuracy,
        "worst_group_accuracy": accuracy, "dp": dp, "deo_sum": dp, "parameters": 10, "minutes": 2.0,
    }  # fmt: skip


def test_the_table_has_mean_spread_and_best_over_seeds_sorted_by_the_metric(tmp_path):
    rows = [row(0, 0, 0.5, 0.1), row(0, 1, 0.7, 0.3), row(0.1, 0, 0.8, 0.4)]
    for index, content in enumerate(rows):
        place = tmp_path / TRIALS / str(index)
        place.mkdir(parents=True)
        (place / ROW).write_text(json.dumps(content))
    assert rows_of(tmp_path) == rows
    sweep = SweepSettings(vary={"adaptation_weight": (0, 0.1)})
    best, other = summary(sweep, rows)
    assert (best["adaptation_weight"], best["routed_accuracy_spread"]) == (0.1, None)
    assert other["routed_accuracy"] == pytest.approx(0.6)
    assert other["routed_accuracy_spread"] == pytest.approx(0.2 / 2**0.5)
    assert (other["routed_accuracy_best"], other["dp_best"], other["seeds"]) == (0.7, 0.1, 2)
    fair = summary(SweepSettings(vary=sweep.vary, metric="dp"), rows)
    assert [line["adaptation_weight"] for line in fair] == [0, 0.1]
    assert "| 0 | 2 | 0.6000 ± 0.1414 |" in write_table(sweep, tmp_path)
    lines = csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
    assert [line["adaptation_weight"] for line in lines] == ["0.1", "0"]
    assert (tmp_path / "table.png").stat().st_size > 1000


def test_a_port_in_use_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port(port) < port + 100


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "sweep: --vary: needed at least once"),
        (["--vary", "seed=1,2"], "seeds are given by --seeds"),
        (["--vary", "num_experts=2,99"], "num_experts"),
        (["--vary", "num_experts=2", "--tuner", "random"], "sweep: --trials: needed for --tuner random"),
        (["--vary", "num_experts=2", "--tuner", "grit"], "grid"),
        (["--resume", "nowhere"], "no sweep is there"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, arguments, sentence):
    done = run("sweep", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
