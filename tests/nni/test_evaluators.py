"""What evaluators bring along: schedules, precision, data modules, checkpoints; and what is refused."""

from __future__ import annotations

import pytest
import pytorch_lightning as lightning
import torch
from nni.nas.evaluator.pytorch import Classification, ClassificationModule, DataLoader, Lightning, Regression, Trainer
from nni.nas.experiment import NasExperiment
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader as PlainLoader
from torch.utils.data import IterableDataset, Subset, SubsetRandomSampler

from lbgnas.errors import LbgnasError
from lbgnas.grouping.learner import Learner
from lbgnas.nni import LBG
from lbgnas.nni.samples import numbered
from tests.nni.small import CLASSES, QUIET, Choices, data, evaluator, gate, initialised, run


class Scheduled(ClassificationModule):
    """The evaluator of NNI's DARTS tutorial: momentum, a schedule, and a call of its model in a hook."""

    def __init__(self, interval="epoch"):
        super().__init__(learning_rate=0.1, weight_decay=1e-3, num_classes=CLASSES)
        self.interval = interval
        self.rates = []

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self.interval}}


def wrapped(module, **more):
    loaders = {
        "train_dataloaders": DataLoader(data(), batch_size=4),
        "val_dataloaders": DataLoader(data(seed=1), batch_size=4),
    }
    return Lightning(module, Trainer(**{"max_epochs": 2, **QUIET, **more}), **loaders)


@pytest.mark.parametrize(
    ("interval", "rates"), [("epoch", [0.1, 0.1, 0.05, 0.05]), ("step", [0.1, 0.05, 0.025, 0.0125])]
)
def test_rates_momentum_and_decay_are_the_evaluators(monkeypatch, interval, rates):
    seen = []
    step = Learner.step
    monkeypatch.setattr(
        Learner, "step", lambda self, *given: seen.append((given[2], given[0][2].tolist())) or step(self, *given)
    )
    run(Choices(), wrapped(Scheduled(interval)), LBG(gate={"rate": 0.2}, gradient_clip_val=None))
    assert [levels.experts.rate for levels, _ in seen] == pytest.approx(rates)
    assert [levels.gate.rate for levels, _ in seen] == pytest.approx([2 * rate for rate in rates])
    assert {levels.experts[1:] for levels, _ in seen} == {(0.9, 1e-3, None)}
    assert [ids for _, ids in seen] == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2


def test_bf16_mixed_searches_in_float32_weights():
    strategy = LBG(grouping="dalbg", gate_module=gate())
    run(Choices(), evaluator(precision="bf16-mixed"), strategy)
    assert {value.dtype for value in strategy.supernet.parameters()} == {torch.float32}
    assert bool((strategy.oneshot_module.learner.row_state.moves == 1).all())


class Module(lightning.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(data(), batch_size=4)

    def val_dataloader(self):
        return DataLoader(data(seed=1), batch_size=4)


def test_a_data_module_tells_ids_too():
    strategy = LBG()
    own = Classification(
        optimizer=torch.optim.SGD, learning_rate=0.05, num_classes=CLASSES, datamodule=Module(), max_epochs=1, **QUIET
    )
    run(Choices(), own, strategy)
    assert strategy.oneshot_module.learner.assignment_logits.shape == (8, 2)


def test_numbered_loaders_draw_what_the_users_would():
    samples = data(12)
    for given in (
        PlainLoader(samples, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(3)),
        PlainLoader(samples, batch_size=5, sampler=SubsetRandomSampler([1, 5, 7, 9, 2, 4]), drop_last=True),
        PlainLoader(Subset(samples, [8, 3, 5]), batch_size=2),
    ):
        torch.manual_seed(0)
        if given.generator is not None:
            given.generator.manual_seed(3)
        plain = [images for images, _ in given]
        torch.manual_seed(0)
        if given.generator is not None:
            given.generator.manual_seed(3)
        for images, ((ours, labels), ids) in zip(plain, numbered(given), strict=True):
            assert torch.equal(images, ours)
            assert torch.equal(torch.stack([given.dataset[index][0] for index in ids.tolist()]), ours)
            assert len(labels) == len(ids)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(data())


def test_data_without_ids_are_refused():
    for loader, words in (
        (PlainLoader(Stream(), batch_size=2), "draws from a stream"),
        (PlainLoader(data(), batch_size=None), "takes ready batches"),
        ([PlainLoader(data())], "are a list; one DataLoader is needed"),
    ):
        with pytest.raises(LbgnasError, match=words):
            numbered(loader)


class ByHand(ClassificationModule):
    automatic_optimization = False

    def __init__(self):
        super().__init__(num_classes=CLASSES, optimizer=torch.optim.SGD)


class Two(Scheduled):
    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), 0.1), torch.optim.SGD(self.parameters(), 0.1)]


class Plateau(Scheduled):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_acc"}}


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (lambda: evaluator(optimizer=torch.optim.Adam), "optimizer is Adam; .*torch.optim.SGD"),
        (lambda: evaluator(precision="bf16-true"), "weights are torch.bfloat16"),
        (lambda: wrapped(Two()), "has 2 optimizers"),
        (lambda: wrapped(Plateau()), "ReduceLROnPlateau"),
        (lambda: wrapped(ByHand()), "optimises by hand"),
    ],
)
def test_what_the_levels_cannot_follow_is_refused(own, words):
    with pytest.raises(LbgnasError, match=words):
        run(Choices(), own(), LBG())


def test_other_losses_than_cross_entropy_are_refused():
    loaders = {"train_dataloaders": DataLoader(data()), "val_dataloaders": DataLoader(data())}
    with pytest.raises(LbgnasError, match="criterion is MSELoss"):
        initialised(Choices(), Regression(**loaders, **QUIET), LBG())
    with pytest.raises(LbgnasError, match="criterion is CrossEntropyLoss"):
        initialised(Choices(), evaluator(criterion=lambda: nn.CrossEntropyLoss(label_smoothing=0.1)), LBG())


# ------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("base", ["darts", "pdarts"])
def test_a_search_that_is_taken_up_ends_where_an_uninterrupted_one_does(tmp_path, base):
    """Batches in a fixed order, so that nothing but the state decides."""

    def strategy():
        torch.manual_seed(0)
        more = {"stages": {"added_cells": (0, 0, 0)}} if base == "pdarts" else {}
        return LBG(grouping="dalbg", base=base, gate_module=gate(), seed=1, **more)

    def space():
        torch.manual_seed(1)
        return Choices()

    class Stop(lightning.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 2:
                raise KeyboardInterrupt

    whole = strategy()
    run(space(), evaluator(epochs=3), whole)

    def broken():
        return ModelCheckpoint(dirpath=tmp_path / "kept", save_last=True, save_on_train_epoch_end=True)

    own = evaluator(epochs=3, enable_checkpointing=True, callbacks=[broken(), Stop()])
    first = NasExperiment(space(), own, strategy())
    first.config.experiment_working_directory = str(tmp_path / "nni")
    with pytest.raises(BaseException):  # noqa: B017, PT011 - Lightning ends the process after a KeyboardInterrupt
        first.run()
    first.stop()

    again = strategy()
    own = evaluator(epochs=3, enable_checkpointing=True, callbacks=[broken()])
    second = NasExperiment(space(), own, again, id=first.id)
    second.config.experiment_working_directory = str(tmp_path / "nni")
    second.resume()
    second.stop()

    one, other = whole.oneshot_module.learner, again.oneshot_module.learner
    assert again.oneshot_module.trainer.current_epoch == 3
    for name, value in whole.supernet.state_dict().items():
        assert torch.equal(value, again.supernet.state_dict()[name]), name
    assert torch.equal(one.assignment_logits, other.assignment_logits)
    for index, own in one.expert_buffers.items():
        assert all(torch.equal(value, other.expert_buffers[index][name]) for name, value in own.items())
    assert whole.oneshot_module.export_experts() == again.oneshot_module.export_experts()
