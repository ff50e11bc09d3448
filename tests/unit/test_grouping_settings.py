from __future__ import annotations

import json

import pytest
import torch

import lbgnas
from lbgnas.bases.base import find_base
from lbgnas.config import SearchSettings
from lbgnas.engine.plan import Plan, space_of

SMALL = {
    "limit": 40,
    "batch_size": 10,
    "epochs": 2,
    "network": {"cells": 3, "channels": 8},
    "base": "pcdarts",
    "grouping": "lbg",
    "hypergradient": "first-order",
}


def levels(**settings):
    chosen = SearchSettings(grouping="dalbg", **settings)
    base = find_base(chosen.base)
    return Plan(chosen, base, space_of(chosen, base)).levels(0)


def test_literal_is_the_papers_words_whatever_else_is_set():
    ours = levels(third_level="mixture")
    assert (ours.mutual_information, ours.mixture) == (1.0, True)
    found = levels(literal=True, third_level="mixture", gate={"mutual_information": 0.5}, expert_balance="class")
    assert (found.mutual_information, found.mixture) == (0.0, False)
    assert found.adaptation.distance.__name__ == "mmd_literal"
    assert ours.adaptation.distance.__name__ == "mmd"
    chosen = SearchSettings(literal=True, expert_balance="class").in_force
    assert (chosen.assignments.optimizer, chosen.expert_balance) == ("sgd", "none")
    assert SearchSettings(literal=True, adaptation="coral").in_force.adaptation == "coral"


def learner_of(result):
    return torch.load(result.genotype.parent / "checkpoint.pt", weights_only=True)["learner"]


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_c_stays_and_a_learned_one_moves(tmp_path, frozen):
    found = lbgnas.search(tmp_path, **{**SMALL, "epochs": 1}, gate={"scouts": 0}, assignments={"frozen": frozen})
    logits = learner_of(found)["assignment_logits"]
    # Every row of the training half is moved once, by 0.1 (the default rate of Adam); the start is near 0.001.
    assert (logits.abs().max() < 0.02) == frozen


def test_balance_reaches_search_and_evaluation(tmp_path):
    found = lbgnas.search(
        tmp_path / "search", **SMALL, expert_balance="class", third_level="mixture", gate={"scouts": 0}
    )
    counts = learner_of(found)["class_counts"]
    assert counts.shape == (2, 2)
    assert counts.sum() > 4
    networks = {"epochs": 1, "network": {"cells": 3, "channels": 4}, "layers": 3}
    losses = []
    for balance in (None, "none"):
        folder = tmp_path / f"evaluate-{balance}"
        lbgnas.evaluate(found.genotype, folder, expert_balance=balance, **networks)
        losses.append(json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["loss"])
    assert losses[0] != losses[1], "by default the evaluation balances as the search did"
