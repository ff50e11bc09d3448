"""Every base with every grouping: stopped and gone on with, read off, evaluated, loaded again."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from lbgnas.config import EvaluationSettings, SearchSettings
from lbgnas.engine.evaluate import Evaluation
from lbgnas.engine.interrupts import Interrupted
from lbgnas.engine.reporting import Reporter
from lbgnas.engine.run import Run
from lbgnas.engine.search import Search
from lbgnas.genotype import load
from lbgnas.networks.stacked import StackedNetwork
from tests.small import assert_same, metrics

BASES = ["darts", "pdarts", "pcdarts", "darts-"]
GROUPINGS = ["none", "lbg", "dalbg"]
SPACE = """
name: small
nodes: 2
concat: [2, 3]
operations: [none, avg_pool_3x3, skip_connect, sep_conv_3x3, noise]
"""
SETTINGS = {
    "limit": 40,
    "batch_size": 10,
    "epochs": 2,
    "image_size": 8,
    "network": {"cells": 3, "channels": 8},
    "stages": {"added_cells": (0, 1, 2), "skip_dropout": (0.2, 0.4, 0.7)},
    "architecture": {"warmup": 0.5},
    "hypergradient": "first-order",  # the cheapest; what is tested here does not depend on it
}


@pytest.fixture
def settings(tmp_path):
    space = tmp_path / "small.yaml"

    def make(base, grouping, **other):
        own = "partial_channels: 4\nedge_normalisation: true\n" if base == "pcdarts" else ""
        space.write_text(SPACE + own)
        return SearchSettings(**{**SETTINGS, "base": base, "grouping": grouping, "space": str(space), **other})

    return make


class Stopper(Reporter):
    """Sends this process a signal after so many steps, as a scheduler would."""

    def __init__(self, after):
        self.left = after

    def step(self, numbers):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("base", BASES)
def test_stops_change_no_bit_and_the_result_loads_anywhere(tmp_path, settings, base, grouping):
    wanted = settings(base, grouping, epochs=1)
    whole = Search(wanted, tmp_path / "whole")
    whole.run()
    # An epoch has 2 steps: at the border of the first stage and inside the second, or inside the only one.
    stops = [2, 1] if base == "pdarts" else [1]
    place = tmp_path / "stopped"
    for number, after in enumerate(stops):
        with pytest.raises(Interrupted, match="go on with --resume"):
            Search(wanted, place, resume=number > 0, report=Stopper(after)).run()
    (tmp_path / "small.yaml").unlink()  # the run has its own copy
    stopped = Search(wanted, place, resume=True)
    assert (stopped.plan.place(stopped.epoch), stopped.step_in_epoch) == ((int(base == "pdarts"), 0), 1)
    stopped.run()
    assert metrics(place) == metrics(tmp_path / "whole")
    assert_same(stopped.content(), whole.content())

    path = place / "genotype.json"
    evaluation = Evaluation(
        EvaluationSettings(genotype=str(path), epochs=1, batch_size=16, layers=3, channels=4, cutout=2),
        tmp_path / "evaluate",
    )
    evaluation.run()
    x = torch.randn(3, 3, 8, 8)
    for index, cell in enumerate(load(path).experts):
        assert cell == whole.architectures()[index]
        again = StackedNetwork(cell, 3, 4, 2, auxiliary=True)
        again.load_state_dict(load_file(tmp_path / "evaluate" / f"expert{index}.safetensors"))
        logits = []
        for network in (again, evaluation.networks[index]):
            torch.manual_seed(0)  # the space has noise
            logits.append(network.eval()(x).logits)
        assert torch.equal(*logits)


def test_a_kill_between_the_record_and_the_checkpoint_of_a_border(tmp_path, settings, monkeypatch):
    wanted = settings("pdarts", "none")
    whole = Search(wanted, tmp_path / "whole")
    whole.run()
    write = Run.write

    def killed(run):
        if run.epoch == 2:
            raise KeyboardInterrupt
        write(run)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "write", killed)
        run = Search(wanted, tmp_path / "killed")
        with pytest.raises(KeyboardInterrupt):
            run.run()
    again = Search(wanted, tmp_path / "killed", resume=True)
    assert again.plan.place(again.epoch) == (0, 1)
    again.run()
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    assert_same(again.content(), whole.content())


def test_what_lives_on_between_stages(tmp_path, settings):
    search = Search(settings("pdarts", "lbg", epochs=1), tmp_path)
    seen = []
    end = search._end_epoch

    def watched():
        before, stage = search.learner, search.plan.place(search.epoch)[0]
        kept = {
            "gate": {name: value.clone() for name, value in before.gate.state_dict().items()},
            "gate_buffers": before.gate_buffers,
            "logits": before.assignment_logits,
            "rows": before.row_state,
        }
        spaces = search.spaces
        end()
        if search.plan.place(search.epoch)[0] == stage:
            assert search.learner is before
            return
        after = search.learner
        assert_same(kept["gate"], dict(after.gate.state_dict()))
        assert after.gate_buffers is kept["gate_buffers"]
        assert after.assignment_logits is kept["logits"]
        assert after.row_state is kept["rows"]
        assert not after.expert_buffers
        assert not after.architecture_optimizer.state
        assert all(alpha.abs().max() < 1e-2 for own in after.architecture for alpha in own.values())
        for own, earlier in zip(search.spaces, spaces, strict=True):
            for kind in ("normal", "reduce"):
                for left, had in zip(own.operations[kind], earlier.operations[kind], strict=True):
                    assert len(left) == search.plan.stages[stage + 1].keep[kind]
                    assert [name for name in had if name in left] == list(left), "a part of it, in its order"
        seen.append([space.operations for space in search.spaces])

    search._end_epoch = watched
    search.run()
    assert len(seen) == 2
    assert seen[0][0] != seen[0][1], "each expert drops by its own alphas"
    assert [len(module.cells) for module in search.learner.experts.modules] == [4, 4]


def test_schedules_reach_the_supernets(tmp_path, settings):
    search = Search(settings("pdarts", "none"), tmp_path / "pdarts")
    rates = []
    for epoch in range(search.plan.epochs):
        search.plan.prepare(search.learner.experts, epoch)
        rates.append(search.learner.experts.modules[0].skip_dropout)
    assert rates == [0.1, 0.2, 0.2, 0.4, 0.35, 0.7]
    search = Search(settings("darts-", "lbg"), tmp_path / "darts-")
    for epoch, beta in ((0, 1.0), (1, 0.5)):
        search.plan.prepare(search.learner.experts, epoch)
        assert [module.auxiliary_weight for module in search.learner.experts.modules] == [beta, beta]


@pytest.mark.parametrize("base", BASES)
def test_the_skip_limit_holds_for_any_base(tmp_path, settings, base):
    search = Search(settings(base, "none"), tmp_path / "free")
    limited = Search(settings(base, "none", max_skips=1), tmp_path / "limited")
    for run in (search, limited):
        for own, space in zip(run.learner.architecture, run.spaces, strict=True):
            with torch.no_grad():
                column = space.operations["normal"][0].index("skip_connect")
                own["alphas_normal"][:, column] = 3 + torch.arange(5.0)
    assert search.architectures()[0].skips("normal") == (2 if base == "pdarts" else 4)
    assert limited.architectures()[0].skips("normal") == 1
    assert not limited.warnings()


@pytest.mark.parametrize("side", [30, 31, 33])
def test_odd_sides_are_padded_to_what_the_reductions_halve(tmp_path, settings, side):
    search = Search(settings("darts", "none", image_size=side, epochs=1), tmp_path)
    train, _ = next(search.batches(0, 0))
    assert train.images.shape[2:] == (-(-side // 4) * 4,) * 2


def test_a_space_with_three_reductions_pads_and_evaluates_alike(tmp_path):
    space = tmp_path / "three.yaml"
    space.write_text(SPACE.replace(", noise", "") + "reductions: [1/4, 1/2, 3/4]\n")
    wanted = {**SETTINGS, "space": str(space), "image_size": 10, "epochs": 1, "network": {"cells": 5, "channels": 4}}
    search = Search(SearchSettings(**wanted), tmp_path / "search")
    train, _ = next(search.batches(0, 0))
    assert train.images.shape[2:] == (16, 16)
    search.run()
    space.unlink()  # the genotype file tells the space
    path = tmp_path / "search" / "genotype.json"
    evaluation = Evaluation(
        EvaluationSettings(genotype=str(path), epochs=1, batch_size=16, layers=5, channels=4, cutout=2),
        tmp_path / "evaluate",
    )
    (network,) = evaluation.networks
    assert network.classifier.in_features == 4 * 2**3 * 2
    assert evaluation.run().samples > 0
