"""Every base with every grouping and hypergradient, through the same classes as the tools."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from lbgnas.config import EvaluationSettings, SearchSettings
from lbgnas.data.image_data import TensorImages
from lbgnas.engine.evaluate import Evaluation
from lbgnas.engine.search import Search
from lbgnas.errors import LbgnasError
from lbgnas.genotype import load, published
from lbgnas.grouping.unrolled import unrolled_step
from lbgnas.networks.stacked import StackedNetwork

SMALL = {
    "limit": 40,
    "batch_size": 10,
    "epochs": 2,
    "image_size": 8,
    "network": {"cells": 3, "channels": 8},
    "architecture": {"warmup": 0.0},
    "stages": {"added_cells": (0, 0, 1), "skip_dropout": (0.2, 0.4, 0.7)},
}


def searched(folder, **settings):
    search = Search(SearchSettings(**{**SMALL, **settings}), folder)
    search.run()
    return search


@pytest.mark.parametrize("hypergradient", ["exact", "fd", "first-order"])
@pytest.mark.parametrize("grouping", ["none", "lbg", "dalbg"])
@pytest.mark.parametrize("base", ["darts", "pdarts", "pcdarts", "darts-"])
def test_one_step_reaches_every_level(tmp_path, base, grouping, hypergradient):
    settings = SearchSettings(**{**SMALL, "base": base, "grouping": grouping, "hypergradient": hypergradient})
    search = Search(settings, tmp_path)
    step_reaches_every_level(search)


@pytest.mark.parametrize("stage", [1, 2])
def test_one_step_of_a_later_stage_reaches_every_level(tmp_path, stage):
    search = Search(SearchSettings(**{**SMALL, "base": "pdarts", "grouping": "dalbg", "epochs": 1}), tmp_path)
    for _ in range(stage):
        search._end_epoch()
    assert search.spaces[0].columns("normal") == (5, 3)[stage - 1]
    step_reaches_every_level(search)


def step_reaches_every_level(search):
    search.plan.prepare(search.learner.experts, search.epoch)
    search.learner.experts.seed = 0
    learner = search.learner
    train, validation = next(search.batches(0, 0))
    rows = None if learner.assignment_logits is None else learner.assignment_logits[train.ids]
    result = unrolled_step(learner.experts, learner.gate, rows, train, validation, search.plan.levels(search.epoch))
    losses = result.losses
    assert sum(losses.train_groups) == sum(losses.validation_groups) == 10
    for index, count in enumerate(losses.train_groups):
        assert (index in result.experts) == (count > 0)
        if count:
            before = learner.experts.weights(index)
            moved = {name: value - before[name] for name, value in result.experts[index].items()}
            assert all(torch.isfinite(value).all() for value in moved.values())
            still = [name for name, value in moved.items() if not value.any()]
            assert not still, f"expert {index}: no gradient reached {still}"
    for index, count in enumerate(losses.validation_groups):
        if count:
            for name, gradient in result.architecture_gradients[index].items():
                assert torch.isfinite(gradient).all()
                assert gradient.any(), (index, name)
    if learner.gate is not None:
        assert torch.isfinite(result.assignment_gradient).all()
        assert result.assignment_gradient.any(1).all(), "every sample's row of C has a slope"
        for name, value in learner.gate.named_parameters():
            assert not torch.equal(result.gate[name], value), name


def alphas(search):
    return [value.detach().clone() for own in search.learner.architecture for value in own.values()]


def weights(search):
    return [
        value
        for index in range(len(search.learner.experts))
        for value in search.learner.experts.weights(index).values()
    ]


@pytest.mark.parametrize(
    ("base", "grouping"),
    [("darts", "lbg"), ("pdarts", "dalbg"), ("pcdarts", "lbg"), ("pcdarts", "dalbg"), ("darts-", "lbg")],
)
def test_one_expert_equals_the_base_bit_for_bit(tmp_path, base, grouping):
    epochs = 1 if base == "pdarts" else 2  # of each stage
    alone = searched(tmp_path / "none", base=base, order="shared", epochs=epochs)
    grouped = searched(tmp_path / "one", base=base, grouping=grouping, num_experts=1, epochs=epochs)
    for left, right in zip(alphas(alone) + weights(alone), alphas(grouped) + weights(grouped), strict=True):
        assert torch.equal(left, right)


def test_weight_zero_equals_lbg_bit_for_bit(tmp_path):
    plain = searched(tmp_path / "lbg", base="pcdarts", grouping="lbg")
    zero = searched(tmp_path / "dalbg", base="pcdarts", grouping="dalbg", adaptation_weight=0.0)
    for left, right in zip(alphas(plain) + weights(plain), alphas(zero) + weights(zero), strict=True):
        assert torch.equal(left, right)
    assert torch.equal(plain.learner.assignment_logits, zero.learner.assignment_logits)


def test_search_never_opens_the_test_split_nor_the_attribute(tmp_path, monkeypatch):
    import lbgnas.data.sources as sources

    def refuse(*_, **__):
        raise AssertionError("the test split was opened by the search")

    search = Search(SearchSettings(**{**SMALL, "base": "pcdarts", "grouping": "lbg"}), tmp_path)
    monkeypatch.setattr(sources, "open_test", refuse)

    class Blind(TensorImages):
        @property
        def attribute(self):
            raise AssertionError("training looked at the attribute")

    search.data.__class__ = Blind
    search.run()
    with pytest.raises(AssertionError, match="attribute"):
        _ = search.data.attribute


def test_evaluation_opens_the_test_split_once_and_after_training(tmp_path, monkeypatch):
    import lbgnas.engine.evaluate as stage

    opened = []
    original = stage.open_test
    evaluation = Evaluation(
        EvaluationSettings(
            genotype="PC_DARTS_cifar", limit=40, epochs=1, batch_size=16, layers=3, channels=4, cutout=2
        ),
        tmp_path,
    )
    monkeypatch.setattr(stage, "open_test", lambda *a, **k: opened.append(evaluation.expert) or original(*a, **k))
    measures = evaluation.run()
    assert opened == [1]
    assert len(measures.experts) == 1
    assert measures.routed == measures.mixture
    assert measures.gate_parameters == 0


def test_a_genotype_gives_the_same_logits_wherever_it_is_loaded(tmp_path):
    search = searched(tmp_path / "search", base="pcdarts", grouping="lbg")
    path = search.folder / "genotype.json"
    settings = EvaluationSettings(genotype=str(path), epochs=1, batch_size=16, layers=3, channels=4, cutout=2)
    evaluation = Evaluation(settings, tmp_path / "evaluate")
    evaluation.run()
    x = torch.randn(3, 3, 8, 8)
    for index, cell in enumerate(load(path).experts):
        assert cell == search.architectures()[index]
        again = StackedNetwork(cell, 3, 4, 2, auxiliary=True)
        again.load_state_dict(load_file(tmp_path / "evaluate" / f"expert{index}.safetensors"))
        assert torch.equal(again.eval()(x).logits, evaluation.networks[index].eval()(x).logits)
    results = json.loads((tmp_path / "evaluate" / "results.json").read_text())
    assert [expert["parameters"] for expert in results["experts"]] == [
        sum(p.numel() for n, p in network.named_parameters() if "auxiliary" not in n) for network in evaluation.networks
    ]


def test_a_changed_gate_is_refused(tmp_path):
    search = searched(tmp_path, base="pcdarts", grouping="lbg")
    weights_file = search.folder / "gate.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:-1] + b"x")
    settings = EvaluationSettings(genotype=str(search.folder / "genotype.json"), epochs=1)
    with pytest.raises(LbgnasError, match=r"gate\.safetensors"):
        Evaluation(settings, tmp_path / "evaluate")


def test_nan_in_training_names_level_and_leaves_the_state_before(tmp_path):
    search = Search(SearchSettings(**{**SMALL, "base": "pcdarts", "grouping": "lbg"}), tmp_path)
    step = search.learner.step
    calls = []

    def poisoned(train, validation, levels):
        calls.append(1)
        if len(calls) == 2:
            train = train._replace(images=train.images * float("nan"))
        return step(train, validation, levels)

    search.learner.step = poisoned
    with pytest.raises(LbgnasError, match=r"epoch 1, step 2: .*level [12]"):
        search.run()
    again = Search(search.settings, tmp_path, resume=True)
    assert (again.epoch, again.step_in_epoch) == (0, 1)
    for module in [*again.learner.experts.modules, again.learner.gate]:
        assert all(torch.isfinite(value).all() for value in module.state_dict().values())
    again.run()
    whole = searched(tmp_path / "whole", base="pcdarts", grouping="lbg")
    for left, right in zip(alphas(again) + weights(again), alphas(whole) + weights(whole), strict=True):
        assert torch.equal(left, right)


def test_sizes_that_cannot_be_halved_are_padded(tmp_path):
    search = Search(SearchSettings(**{**SMALL, "base": "pcdarts", "image_size": 10, "epochs": 1}), tmp_path)
    train, _ = next(search.batches(0, 0))
    assert train.images.shape[2:] == (12, 12)


def test_published_genotypes_train_without_a_gate(tmp_path):
    for name in ("DARTS_V2", "PC_DARTS_cifar"):
        assert published(name).gate is None
