"""Schedules at the published settings: learning rates, dropout on skips, weight of the auxiliary skip."""

from __future__ import annotations

import pytest

from lbgnas.bases.base import find_base
from lbgnas.bases.darts_minus import auxiliary_weight
from lbgnas.bases.pdarts import skip_dropout
from lbgnas.cli import parse
from lbgnas.config import SearchSettings
from lbgnas.engine.plan import Plan, space_of
from lbgnas.engine.schedules import cosine, ramp
from lbgnas.errors import LbgnasError
from tests.golden import reference


def plan(*flags):
    settings, _ = parse(SearchSettings, "search", flags, "")
    base = find_base(settings.base)
    return Plan(settings, base, space_of(settings, base))


@pytest.mark.parametrize(
    ("base", "epoch", "rate"),
    [
        ("darts", 0, 0.025), ("darts", 1, 0.02497632), ("darts", 25, 0.013), ("darts", 49, 0.00102368),
        ("darts-", 49, 0.00102368),
        ("pcdarts", 0, 0.1), ("pcdarts", 1, 0.09990134), ("pcdarts", 25, 0.05), ("pcdarts", 49, 9.866e-5),
        ("pdarts", 0, 0.025), ("pdarts", 1, 0.02490143), ("pdarts", 12, 0.01328488), ("pdarts", 24, 9.857e-5),
        ("pdarts", 25, 0.025), ("pdarts", 26, 0.02490143), ("pdarts", 74, 9.857e-5),
    ],
)  # fmt: skip
def test_rates_of_the_published_settings(base, epoch, rate):
    levels = plan("--preset", "published-cifar", "--base", base).levels(epoch)
    assert levels.experts.rate == pytest.approx(rate, rel=1e-4, abs=5e-9)


@pytest.mark.parametrize(("epoch", "rate"), [(0, 0.025), (1, 0.02499983), (300, 0.0125), (599, 1.7e-7)])
def test_rates_of_an_evaluation(epoch, rate):
    assert cosine(0.025, 0.0, epoch, 600) == pytest.approx(rate, abs=1e-8)
    assert ramp(0.2, epoch, 600) == pytest.approx(0.2 * epoch / 600)


@pytest.mark.parametrize("decay", ["linear", "cosine", "slow_cosine", "None"])
def test_weights_of_the_auxiliary_skip_equal_reference(decay):
    own = {"slow_cosine": "slow-cosine", "None": "constant"}.get(decay, decay)
    expected = reference.golden("golden_dm")[f"beta.{decay}"]
    found = [auxiliary_weight(own, 1.0, epoch, 50) for epoch in range(len(expected))]
    assert len(expected) >= 50
    assert found == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    ("start", "rates"),
    [
        (0.4, {0: 0.384, 1: 0.368, 9: 0.24, 10: 0.4, 11: 0.32749, 12: 0.26813, 24: 0.02432}),
        (0.7, {0: 0.672, 9: 0.42, 10: 0.7, 11: 0.57311, 12: 0.46922, 24: 0.04257}),
        (0.0, {0: 0.0, 12: 0.0}),
    ],
)
def test_dropout_on_skips_equals_reference(start, rates):
    for epoch, rate in rates.items():
        assert skip_dropout(start, epoch, 25, 10) == pytest.approx(rate, abs=5e-6)


def test_when_architectures_are_learned():
    for base, frozen, epochs in (("darts", 0, 50), ("darts-", 0, 50), ("pcdarts", 15, 50), ("pdarts", 10, 25)):
        own = plan("--preset", "published-cifar", "--base", base)
        learned = [own.levels(epoch).architecture for epoch in range(own.epochs)]
        assert learned == [epoch % epochs >= frozen for epoch in range(own.epochs)]
        assert all(own.levels(epoch).assignments for epoch in range(own.epochs)), "C is never frozen"


def test_stages_of_the_published_settings():
    own = plan("--preset", "published-cifar", "--base", "pdarts")
    assert own.epochs == 75
    assert [(stage.cells, stage.single, stage.channels) for stage in own.stages] == [
        (5, 5, 16),
        (11, 11, 16),
        (17, 17, 16),
    ]
    assert [stage.keep for stage in own.stages] == [{"normal": count, "reduce": count} for count in (8, 5, 3)]
    assert [stage.skip_dropout for stage in own.stages] == [0.0, 0.4, 0.7]
    assert [own.place(epoch) for epoch in (0, 24, 25, 74, 75)] == [(0, 0), (0, 24), (1, 0), (2, 24), (2, 25)]
    assert own.max_skips == 2
    assert plan("--base", "pdarts", "--max-skips", "0").max_skips == 0
    assert plan("--base", "darts").max_skips is None


def test_the_gate_does_not_start_again_with_a_stage():
    own = plan("--preset", "published-cifar", "--base", "pdarts", "--grouping", "lbg")
    rates = [own.levels(epoch).gate.rate for epoch in range(own.epochs)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[25] > rates[50] > rates[74]


@pytest.mark.parametrize(
    ("base", "number", "cells"),
    [
        ("darts", 1, [8]), ("darts", 2, [5]), ("darts", 3, [4]), ("darts", 8, [3]),
        ("pdarts", 2, [4, 7, 10]), ("pdarts", 3, [3, 5, 7]), ("pdarts", 8, [3, 3, 4]),
    ],
)  # fmt: skip
def test_one_rule_for_the_cells_of_experts(base, number, cells):
    own = plan("--preset", "paper-cifar", "--base", base, "--grouping", "lbg", "--num-experts", str(number))
    assert [stage.cells for stage in own.stages] == cells


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--base", "pdarts", "--stages.added-cells", "0,6"], "stages.added_cells: 2 given, base pdarts has 3 stages"),
        (["--base", "pdarts", "--stages.skip-dropout", "0,1,0"], "skip_dropout.*at least 0 and below 1"),
        (["--base", "pdarts", "--stages.added-channels", "0,1,2"], "network.channels: 9 must be a multiple of 2"),
        (["--base", "pdarts", "--stages.added-cells", "0,x,1"], "stages.added_cells.1: 'x' is not allowed"),
        (["--space", "dart"], "unknown search space 'dart'.*did you mean 'darts'"),
        (["--base", "darts-", "--auxiliary-skip.decay", "cosin"], "'cosin'.*did you mean 'cosine'"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(flags, sentence):
    with pytest.raises(LbgnasError, match=sentence):
        plan(*flags)


def test_the_base_decides_on_the_auxiliary_skip():
    assert plan("--base", "darts-", "--space", "darts").space.auxiliary_skip == "skip"
    assert plan("--base", "darts", "--space", "darts-minus-s1").space.auxiliary_skip is None
