"""An estimate multiplies what was measured as the run itself would repeat it."""

from __future__ import annotations

import pytest

from lbgnas.config import EvaluationSettings, SearchSettings, SupernetSettings
from lbgnas.engine import estimate
from lbgnas.engine.evaluate import Evaluation
from lbgnas.engine.search import Search
from lbgnas.networks.counting import count_parameters
from tests.small import EVALUATE, SEARCH, run


@pytest.fixture
def one_second(monkeypatch):
    """Everything that is timed takes one second."""

    def seconds(device, work):
        work()
        return 1.0

    monkeypatch.setattr(estimate, "_seconds", seconds)


@pytest.mark.parametrize(("base", "stages", "scouts"), [("pcdarts", 1, 0), ("pcdarts", 1, 3), ("pdarts", 3, 0)])
def test_a_search_is_all_its_steps_and_the_ends_of_its_epochs(tmp_path, one_second, base, stages, scouts):
    settings = SearchSettings(
        base=base,
        grouping="lbg",
        limit=40,
        batch_size=10,
        epochs=2,
        network=SupernetSettings(cells=3, channels=8),
        stages={"added_cells": (0, 0, 0)},
        gate={"scouts": scouts, "scout_epochs": 4},
    )
    search = Search(settings, tmp_path)
    found = estimate.estimate_search(search)
    assert search.steps == 2
    assert found.seconds == stages * 2 * (2 * 1.0 + 2.0) + scouts * 1.0
    assert found.step_seconds == 1.0
    again = tmp_path / "again"
    again.mkdir()
    first = Search(settings, again).learner  # the estimate's own has the last stage's operations
    assert found.parameters == sum(map(count_parameters, (*first.experts.modules, first.gate)))
    assert found.peak_bytes > 2**20


def test_steps_are_measured_where_a_whole_scout_leads(tmp_path, monkeypatch):
    settings = SearchSettings(
        base="pcdarts", grouping="lbg", limit=40, batch_size=10, epochs=1, network={"cells": 3, "channels": 8},
        gate={"scouts": 5, "scout_epochs": 2},
    )  # fmt: skip
    search, order = Search(settings, tmp_path), []
    begin, take, scout = search.begin_from, search.take_step, estimate.run_scouts

    def run(plan, *arguments):
        order.append(("scout", plan.settings.gate.scouts, plan.settings.gate.scout_epochs))
        return scout(plan, *arguments)

    monkeypatch.setattr(search, "begin_from", lambda found: (order.append("begin"), begin(found)))
    monkeypatch.setattr(search, "take_step", lambda *given, **named: (order.append("step"), take(*given, **named)))
    monkeypatch.setattr(estimate, "run_scouts", run)
    estimate.estimate_search(search)
    assert order[:4] == [("scout", 1, 1), ("scout", 1, 2), "begin", "step"]
    assert order.count("begin") == 1


def test_an_evaluation_is_the_steps_of_every_expert_and_the_test_split(tmp_path, one_second):
    settings = EvaluationSettings(
        genotype="DARTS_V2",
        data="coloured-digits",
        limit=40,
        epochs=3,
        batch_size=16,
        network={"cells": 3, "channels": 4},
    )
    evaluation = Evaluation(settings, tmp_path)
    found = estimate.estimate_evaluation(evaluation)
    samples = len(evaluation.data)
    assert found.seconds == 3 * (evaluation.steps(0) + 1.0) + len(evaluation.test_split()) / samples
    assert found.parameters == count_parameters(evaluation.networks[0])


def test_a_slow_first_step_counts_once(monkeypatch):
    seconds = iter([5.0, 1.0, 2.0, 1.0, 2.0, 1.5, 1.5])
    monkeypatch.setattr(estimate, "_seconds", lambda device, work: work() or next(seconds))
    taken = []
    pace = estimate._pace(None, lambda: iter(range(9)), taken.append)
    assert taken == [0, *range(estimate.STEPS)]
    assert pace.of(11) == 5.0 + 10 * 1.5


def test_a_short_last_batch_weighs_as_it_does_in_an_epoch(monkeypatch):
    """Epochs of three steps, the last of a third of the samples."""
    batches, taken = (30, 30, 10), []
    monkeypatch.setattr(estimate, "_seconds", lambda device, work: work() or taken[-1])
    pace = estimate._pace(None, lambda: iter(batches), taken.append)
    assert pace.of(4 * 3) == pytest.approx(4 * sum(batches), rel=0.05)


def test_the_tools_print_one_line_and_leave_nothing(tmp_path):
    search = run("search", "--estimate", "--base", "pcdarts", "--grouping", "lbg", *SEARCH, cwd=tmp_path)
    assert search.returncode == 0, search.stderr
    evaluate = run("evaluate", "--estimate", "--genotype", "DARTS_V2", "--data", "coloured-digits", "--limit", "40",
                   *EVALUATE, cwd=tmp_path)  # fmt: skip
    assert evaluate.returncode == 0, evaluate.stderr
    for done in (search, evaluate):
        assert done.stdout.splitlines()[-1].startswith("estimate: 0 h ")
    assert not list(tmp_path.iterdir())
