"""Runs with fixed experts: every method, what defines it, resuming, and the model a run leaves."""

from __future__ import annotations

import json
import signal

import pytest
import torch
import torch.nn.functional as F

from lbgnas.config import validated
from lbgnas.data.batches import Batch
from lbgnas.data.sources import open_test
from lbgnas.data.transforms import normalise
from lbgnas.engine.group_stage import GroupStage
from lbgnas.engine.grouped_model import load_model
from lbgnas.engine.groups import GroupTraining
from lbgnas.engine.inference import gate_groups
from lbgnas.engine.interrupts import Interrupted
from lbgnas.engine.plain_training import PlainTraining, mixture_batch_loss, weighted_loss
from lbgnas.errors import LbgnasError
from lbgnas.group_settings import GroupSettings
from tests.small import assert_same, metrics

SMALL = {
    "experts": "resnet18",
    "width": 4,
    "limit": 60,
    "batch_size": 16,
    "epochs": 2,
    "seed": 1,
    "routing": {"rate": 0.01},
    "weights": {"rate": 0.05},
    "finetune": {"epochs": 2, "rate": 0.05},
}


def settings(**more) -> GroupSettings:
    return validated(GroupSettings, {**SMALL, **more}, "test")


@pytest.fixture(scope="module")
def lbg(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lbg")
    run = GroupTraining(settings(), folder)
    run.grouping = run.stage
    return run, run.run()


def test_lbg_leaves_what_it_promises(lbg):
    run, measures = lbg
    names = {path.name for path in run.folder.iterdir()}
    assert {"split.json", "model.json", "expert1.safetensors", "gate.safetensors", "predictions.csv"} <= names
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(6))
    assert [record["phase"] for record in records] == ["groups"] * 2 + ["expert 0"] * 2 + ["expert 1"] * 2
    # Without A, stage III still reaches C.
    assert records[1]["validation_loss"] > 0
    assert run.grouping.learner.assignment_logits[run.split.train].std() > 0.05
    assert sum(len(rows) for rows in run.own()) == len(run.data) == 60
    assert "shared" not in run.summary()
    assert "2 x resnet18, 2-2-1-1 blocks, width 4" in run.summary()
    assert {"routed", "mixture"} <= set(measures.fairness)
    assert measures.samples == 60


def test_the_gate_rests_while_experts_are_tuned(lbg):
    run, _ = lbg
    group = gate_groups(run.gate, run.data, torch.arange(60), run.device).argmax(1)
    for index, rows in enumerate(run.own()):
        assert torch.equal(rows, (group == index).nonzero()[:, 0])


def test_the_model_of_a_run_answers_as_the_run_did(lbg):
    run, measures = lbg
    model, test = load_model(run.folder), open_test("coloured-digits", limit=60)
    images = test.images(torch.arange(60))
    routed = model.predict(images)
    assert float((routed.probabilities.argmax(1) == test.labels).float().mean()) == pytest.approx(measures.routed)
    dense = model(images)
    for own, every in zip(routed, dense, strict=True):
        assert torch.allclose(own, every, atol=1e-6)
    assert model.info.class_names == run.data.info.class_names
    assert ((routed.confidence > 0.5) & (routed.confidence <= 1)).all()


def test_a_changed_model_is_refused(lbg, tmp_path):
    run, _ = lbg
    for path in run.folder.iterdir():
        if path.suffix in (".json", ".safetensors"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    load_model(tmp_path)
    weights = bytearray((tmp_path / "expert0.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "expert0.safetensors").write_bytes(bytes(weights))
    with pytest.raises(LbgnasError, match="is not the file the model was saved with"):
        load_model(tmp_path)
    (tmp_path / "gate.safetensors").unlink()
    (tmp_path / "expert0.safetensors").write_bytes((run.folder / "expert0.safetensors").read_bytes())
    with pytest.raises(LbgnasError, match=r"gate\.safetensors: cannot be read"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text('{"format": "lbgnas.model", "version": 9}')
    with pytest.raises(LbgnasError, match="is of version 9; this program reads 1"):
        load_model(tmp_path)
    (tmp_path / "model.json").unlink()
    with pytest.raises(LbgnasError, match="holds no trained model"):
        load_model(tmp_path)


@pytest.mark.parametrize("phase", ["groups", "expert 1"])
def test_a_stopped_run_ends_in_the_same_bits(lbg, tmp_path, monkeypatch, phase):
    run, _ = lbg
    stopped = GroupTraining(settings(), tmp_path)
    original = GroupTraining.save

    def save(self):
        original(self)
        if self.phases[min(self.phase, 2)] == phase and self.epoch == 1:
            raise Interrupted("stopped", 2)

    with monkeypatch.context() as patch:
        patch.setattr(GroupTraining, "save", save)
        with pytest.raises(Interrupted):
            stopped.run()
    GroupTraining(settings(), tmp_path, resume=True).run()
    for name in ("expert0.safetensors", "expert1.safetensors", "gate.safetensors", "results.json", "predictions.csv"):
        assert (tmp_path / name).read_bytes() == (run.folder / name).read_bytes(), name


DROPOUT = {"method": "erm", "experts": "torchvision:squeezenet1_1", "width": None, "image_size": 32, "limit": 20}


@pytest.mark.parametrize(
    ("kind", "number", "more"),
    [
        pytest.param(GroupStage, 1, {}, id="groups"),
        pytest.param(PlainTraining, 7, {}, id="last expert"),
        pytest.param(PlainTraining, 3, {**DROPOUT, "finetune": {"epochs": 2, "rate": 0.01}}, id="dropout"),
        pytest.param(PlainTraining, 5, {"method": "moe", "experts": "resnet56"}, id="mixture"),
    ],
)
def test_a_stop_within_an_epoch_loses_no_step_and_changes_no_bit(lbg, tmp_path, monkeypatch, kind, number, more):
    whole = lbg[0] if not more else GroupTraining(settings(**more), tmp_path / "whole")
    if more:
        whole.train()
    original, taken = kind.step, []

    def step(self, batch, epoch, at):
        taken.append((self.name if isinstance(self, PlainTraining) else "groups", epoch, at))
        if len(taken) == number:
            signal.raise_signal(signal.SIGTERM)
        return original(self, batch, epoch, at)

    monkeypatch.setattr(kind, "step", step)
    stopped = GroupTraining(settings(**more), tmp_path / "stopped")
    with pytest.raises(Interrupted, match=r"in epoch \d of .* after \d of \d steps; go on with --resume") as caught:
        stopped.train()
    assert caught.value.signal_number == signal.SIGTERM
    again = GroupTraining(settings(**more), tmp_path / "stopped", resume=True)
    again.train()
    # The step during which the signal came is the last one before it, and the next one the first after it.
    assert len(taken) > number == len(set(taken[:number]))
    assert taken[number] == (*taken[number - 1][:2], taken[number - 1][2] + 1)
    assert_same(again.content(), whole.content())
    assert metrics(tmp_path / "stopped") == metrics(whole.folder)


# What defines each method


def test_erm_is_one_full_network_on_everything(tmp_path):
    run = GroupTraining(settings(method="erm"), tmp_path)
    assert len(run.experts) == 1
    assert run.network == run.single
    assert run.gate is None
    measures = run.run()
    assert measures.routed == measures.mixture
    assert run.own()[0].tolist() == list(range(60))
    assert load_model(tmp_path).predict(torch.rand(3, 3, 8, 8)).confidence.tolist() == [1, 1, 1]


def test_an_ensemble_trains_on_bootstrap_samples_and_answers_with_the_mean(tmp_path):
    run = GroupTraining(settings(method="ensemble", num_experts=3), tmp_path)
    for rows in run.own():
        assert len(rows) == 60
        assert 25 < len(rows.unique()) < 50
    assert not torch.equal(*run.own()[:2])
    measures = run.run()
    test = open_test("coloured-digits", limit=60)
    images = test.images(torch.arange(60))
    prepared = normalise(images, run.data.info.mean, run.data.info.std)
    mean = torch.stack([expert.eval()(prepared).softmax(1) for expert in run.experts]).mean(0)
    assert measures.mixture == pytest.approx(float((mean.argmax(1) == test.labels).float().mean()))


def test_random_and_kmeans_splits_are_fixed(tmp_path):
    for method in ("random-split", "kmeans-split"):
        run = GroupTraining(settings(method=method, num_experts=2), tmp_path / method)
        before = [rows.tolist() for rows in run.own()]
        assert min(map(len, before)) > 5
        run.run()
        assert [rows.tolist() for rows in run.own()] == before
        assert not list(run.gate.parameters())


def test_kmeans_groups_are_those_of_scikit_learn(tmp_path):
    from sklearn.cluster import KMeans

    run = GroupTraining(settings(method="kmeans-split"), tmp_path)
    images = run.data.images(torch.arange(60))
    flat = normalise(images, run.data.info.mean, run.data.info.std).flatten(1)
    centres = torch.stack([flat[rows].mean(0) for rows in run.own()]).numpy()
    again = KMeans(2, init=centres, n_init=1).fit(flat.numpy())
    assert [set((again.labels_ == k).nonzero()[0].tolist()) for k in (0, 1)] == [set(r.tolist()) for r in run.own()]


def test_the_mixture_learns_gate_and_experts_together(tmp_path):
    run = GroupTraining(settings(method="moe"), tmp_path)
    before = [value.clone() for module in (*run.experts, run.gate) for value in module.parameters()]
    run.run()
    after = [value for module in (*run.experts, run.gate) for value in module.parameters()]
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


class Given(torch.nn.Module):
    """Answers alike whatever it is asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer


def test_mixture_loss_by_hand():
    torch.manual_seed(0)
    gate, experts, labels = torch.randn(5, 2), [torch.randn(5, 3) for _ in range(2)], torch.tensor([0, 1, 2, 0, 1])
    f, p = gate.softmax(1), [logits.softmax(1) for logits in experts]
    want = -sum(torch.log(sum(f[n, k] * p[k][n, labels[n]] for k in range(2))) for n in range(5)) / 5
    batch = Batch(torch.empty(5), labels, torch.arange(5))

    def loss(*chosen):
        answers = [Given(logits) for logits in chosen]
        return mixture_batch_loss(Given(gate), answers)(batch)

    assert loss(*experts).item() == pytest.approx(want.item(), rel=1e-5)
    same = loss(experts[0], experts[0])
    assert same.item() == pytest.approx(F.cross_entropy(experts[0], labels).item(), rel=1e-5)


def test_dalbg_adapts_and_a_transformer_can_be_an_expert(tmp_path):
    run = GroupTraining(settings(method="dalbg", experts="t2t_vit_14", width=12, gate="resnet8", epochs=1), tmp_path)
    assert run.stage.levels(0).adaptation.weight == 0.1
    assert run.network.depths == (6,)
    run.run()
    assert "gate resnet8" in run.summary()


def test_pretrained_weights_start_every_expert(lbg, tmp_path):
    run, _ = lbg
    start = run.folder / "expert0.safetensors"
    again = GroupTraining(settings(pretrained=str(start)), tmp_path)
    theirs = run.experts[0].state_dict()
    for expert in again.experts:
        assert all(torch.equal(value, theirs[name]) for name, value in expert.state_dict().items())
    assert "of each expert" in again.summary()


def test_another_run_is_not_resumed(lbg):
    run, _ = lbg
    with pytest.raises(LbgnasError, match="was made with settings"):
        GroupTraining(settings(seed=5), run.folder, resume=True)


def test_a_loss_that_is_not_finite_names_the_step(tmp_path):
    run = GroupTraining(settings(method="erm"), tmp_path)
    with torch.no_grad():
        run.experts[0].fc.weight.fill_(float("nan"))
    with pytest.raises(LbgnasError, match=r"expert 0, epoch 1, step 1: the loss is nan; lower finetune\.rate"):
        run.run()


def test_patience_ends_the_grouping_and_goes_back_to_the_best_epoch(tmp_path, monkeypatch):
    reached = iter([0.4, 0.9, 0.5, 0.9, 0.9])
    monkeypatch.setattr("lbgnas.engine.group_stage.accuracy", lambda *_: next(reached))
    run = GroupTraining(settings(epochs=20, patience=2), tmp_path)
    gates, original = [], GroupTraining.save

    def save(self):
        original(self)
        gates.append((self.phase, self.epoch, self.gate.classifier.weight.detach().clone()))

    monkeypatch.setattr(GroupTraining, "save", save)
    run.train()
    ends = {(phase, epoch): weight for phase, epoch, weight in gates}
    assert (0, 4) in ends
    assert (0, 5) not in ends
    # Equal is not better: the best is the second epoch.
    assert torch.equal(ends[1, 0], ends[0, 2])
    assert not torch.equal(ends[1, 0], ends[0, 4])


def test_patience_survives_a_stop(tmp_path):
    run = GroupTraining(settings(patience=1, epochs=9), tmp_path)
    run.stage.best = {"accuracy": 0.7, "epoch": 3, "learner": run.stage.learner.state_dict()}
    run.save()
    again = GroupTraining(settings(patience=1, epochs=9), tmp_path, resume=True)
    assert (again.stage.best["accuracy"], again.stage.best["epoch"]) == (0.7, 3)
    assert again.stage.exhausted(5)
    assert not again.stage.exhausted(4)


def test_classes_are_balanced_in_the_tuning_of_an_expert(tmp_path):
    run = GroupTraining(settings(expert_balance="class"), tmp_path)
    for rows in run.own():
        counts = torch.bincount(run.data.labels[rows], minlength=2) + 1
        weights = run.class_weights(rows)
        assert torch.allclose(weights, counts.sum() / (2 * counts))
    assert run.stage.learner.class_counts is not None
    logits, labels = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    want = sum(weights[y] * F.cross_entropy(logits[n], y) for n, y in enumerate(labels)) / 4
    assert weighted_loss(logits, labels, weights).item() == pytest.approx(want.item(), rel=1e-5)
    assert weighted_loss(logits, labels, None).item() == pytest.approx(F.cross_entropy(logits, labels).item())


def test_the_third_level_and_c_follow_their_settings(tmp_path):
    run = GroupTraining(settings(third_level="mixture", assignments={"frozen": True}), tmp_path)
    levels = run.stage.levels(0)
    assert (levels.mixture, levels.assignments, levels.architecture) == (True, False, False)


def test_a_librarys_network_keeps_its_width_and_the_run_says_so(tmp_path):
    run = GroupTraining(settings(experts="torchvision:squeezenet1_1", method="erm", width=4), tmp_path)
    assert run.network.width == 0
    assert "width 4 has no effect: torchvision:squeezenet1_1 has its own" in run.summary()
