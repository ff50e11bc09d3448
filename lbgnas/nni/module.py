"""The Lightning module of a search: the evaluator's own module around K experts, stepped by the three levels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lbgnas.bases.base import Base
from lbgnas.bases.darts_minus import auxiliary_weight
from lbgnas.bases.pdarts import skip_dropout
from lbgnas.batch_statistics import BatchStatistics
from lbgnas.config import SearchSettings
from lbgnas.data.seeds import derive_seed
from lbgnas.engine.checkpoint import to_device
from lbgnas.engine.three_levels import learner_start, three_levels
from lbgnas.errors import LbgnasError
from lbgnas.grouping.cost import Cost
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.learner import Learner
from lbgnas.grouping.levels import Levels, Losses, Samples
from lbgnas.nni.builder import Builder
from lbgnas.nni.cost import Measure, candidate_costs, expected_cost
from lbgnas.nni.host import BaseOneShotLightningModule
from lbgnas.nni.optimizers import only_optimizer, weight_settings
from lbgnas.nni.relaxed import Names, Relaxed
from lbgnas.nni.samples import images_and_labels
from lbgnas.nni.settings import Timetable, timetable

STATE = "lbgnas"
"""The key of a checkpoint that holds what is not in the modules."""


class Search(NamedTuple):
    """What the strategy tells its module.

    Attributes:
        settings, base, build: of the experts.
        architecture_rate: Adam's rate for A.
        clip: largest norm of one expert's gradient; None for any.
        warmup_epochs: how long A rests; None for the base's share.
        log_every: steps between two logs of the candidates' probabilities.
        cost, cost_weight: what the architectures are charged for; None for nothing.
        features: the submodule of an expert whose input is the embedding; None for its last linear layer.
    """

    settings: SearchSettings
    base: Base
    build: Builder
    architecture_rate: float
    clip: float | None
    warmup_epochs: int | None
    log_every: int
    cost: Measure | None
    cost_weight: float
    features: str | None


def architecture_names(expert: nn.Module) -> tuple[str, ...]:
    """Return the names of an expert's architecture parameters, in the order in which the network was built."""
    found = {id(value) for module in expert.modules() for value in getattr(module, "arch_parameters", list)()}
    return tuple(name for name, value in expert.named_parameters() if id(value) in found)


class GroupedModule(BaseOneShotLightningModule):
    """Takes the place of the evaluator's module in a search.

    Args:
        training_module: the evaluator's module.
        search: what is searched, and how.
    """

    def __init__(self, training_module: Any, search: Search) -> None:
        super().__init__(training_module)
        self.search = search
        self.samples: int | None = None
        self.learner: Learner | None = None
        self.stage = 0
        self.kept: list[dict[str, Names]] = []
        self._state: dict[str, Any] | None = None
        self._cost: Cost | None = None
        self._times: Timetable | None = None

    # -------------------------------------------------------------------------------------------- set-up

    @property
    def times(self) -> Timetable:
        """When stages begin and A rests."""
        if self._times is None:
            search = self.search
            self._times = timetable(search.settings, search.base, self.trainer.max_epochs, search.warmup_epochs)
        return self._times

    def configure_optimizers(self) -> Any:
        """Return what the evaluator configures; its SGD holds settings and schedule, and steps nothing itself."""
        configured = self.training_module.configure_optimizers()
        only_optimizer(configured)
        return configured

    def on_fit_start(self) -> Any:
        """Refuse what the levels cannot follow before any step."""
        if not self.training_module.automatic_optimization:
            raise LbgnasError("LBG: the evaluator optimises by hand; automatic optimization is needed")
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise LbgnasError("LBG: precision 16-mixed scales its loss, which hypergradients cannot; use bf16-mixed")
        if self.dtype not in (torch.float32, torch.float64):
            raise LbgnasError(f"LBG: the weights are {self.dtype}; give the trainer precision 32, 64 or bf16-mixed")
        if self.trainer.world_size > 1:
            raise LbgnasError(
                f"LBG: the trainer runs {self.trainer.world_size} processes; a search through NNI runs in one"
            )
        return super().on_fit_start()

    def on_train_start(self) -> Any:
        """Make the learner, or take up the one of a checkpoint."""
        self.learner = self._new_learner(self._experts())
        if self._state is not None:
            own = self.learner.state_dict()
            self.learner.load_state_dict({**own, **to_device(self._state, self.device)})
            self._state = None
        return super().on_train_start()

    def _experts(self) -> Experts:
        modules = list(self.model.experts)
        names = architecture_names(modules[0])
        if not names:
            raise LbgnasError("LBG: the space has nothing to choose from")
        return Experts(modules, names, self.search.features)

    def _new_learner(self, experts: Experts) -> Learner:
        search, gate = self.search, self.model.gate
        settings = search.settings
        samples = self.samples if self.samples is not None else 0
        classes = search.build.classes
        if settings.expert_balance == "class" and classes is None:
            raise LbgnasError("LBG: expert_balance='class' needs an evaluator with num_classes")
        start = learner_start(settings, settings.seed, samples, len(experts), classes or 0, self.device)
        return Learner(
            experts,
            gate,
            None if gate is None else start.assignment_logits.to(self.dtype),
            start.rows,
            search.architecture_rate,
            settings.architecture.decay,
            search.base.architecture_clip,
            start.balance_classes,
        )

    # ---------------------------------------------------------------------------------------------- steps

    def on_train_epoch_start(self) -> Any:
        """Begin the stage of this epoch, and set what bases change from epoch to epoch."""
        stage, own = self.times.place(self.trainer.current_epoch)
        if stage != self.stage:
            self._begin(stage)
        search, times = self.search, self.times
        skip = search.settings.auxiliary_skip
        start = search.settings.stages.skip_dropout[stage] if times.stages > 1 else 0.0
        epochs = times.stage_epochs
        for module in self.model.modules():
            if isinstance(module, Relaxed):
                module.skip_dropout = skip_dropout(start, min(own, epochs - 1), epochs, times.frozen) if start else 0.0
                if search.base.auxiliary_skip:
                    module.auxiliary_weight = auxiliary_weight(skip.decay, skip.weight, own, max(epochs, own + 1))
        return super().on_train_epoch_start()

    def _begin(self, stage: int) -> None:
        """Drop candidates and build the experts of a later stage; gate and C live on."""
        assert self.learner is not None
        self.kept = [self.search.build.kept(expert, stage) for expert in self.model.experts]
        self._install(stage)
        self.learner = self.learner.with_experts(self._experts())

    def _install(self, stage: int) -> None:
        self.stage = stage
        self._cost = None
        self.model.experts = nn.ModuleList(self.search.build(stage, self.kept)).to(self.device, self.dtype)

    def levels(self, like: Tensor) -> Levels:
        """Return how the levels of this step are taken; rates follow the evaluator's schedule."""
        search = self.search
        optimizer = self.optimizers()
        rate = float(optimizer.param_groups[0]["lr"])
        first = float(optimizer.param_groups[0].get("initial_lr", optimizer.defaults["lr"])) or 1.0
        weights = weight_settings(optimizer, search.clip)
        settings = search.settings
        _, own = self.times.place(self.trainer.current_epoch)
        levels = three_levels(
            settings,
            settings.gate,
            weights,
            settings.grouping == "dalbg",
            rate,
            settings.gate.rate * rate / first,
            own >= self.times.frozen,
        )
        if search.clip is None:
            levels = dataclasses.replace(levels, experts=levels.experts._replace(clip=None))
        if search.cost is not None:
            if self._cost is None:
                costs = candidate_costs(self.model.experts[0], search.cost, like)
                self._cost = expected_cost(costs, search.cost_weight)
            levels = dataclasses.replace(levels, cost=self._cost)
        return levels

    def samples_of(self, batch: Mapping[str, Any]) -> tuple[Samples, Samples]:
        """Return the training batch with its ids and the validation batch."""
        given, ids = batch["train"] if self.samples is not None else (batch["train"], None)
        images, labels = images_and_labels(given, "training")
        if ids is None:
            ids = torch.arange(len(labels), device=labels.device)
        validation_images, validation_labels = images_and_labels(batch["val"], "validation")
        return (images, labels, ids), (
            validation_images,
            validation_labels,
            torch.arange(len(validation_labels), device=labels.device),
        )

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Any:
        """Take one iteration of Algorithm 1 (for grouping none: the base's own step) and log it."""
        learner = self.learner
        assert learner is not None
        train, validation = self.samples_of(batch)
        epoch, settings = self.trainer.current_epoch, self.search.settings
        levels = self.levels(train[0])
        learner.experts.seed = derive_seed(settings.seed, "draws", epoch, batch_idx)
        step = learner.bilevel_step if settings.grouping == "none" else learner.step
        losses = step(train, validation, levels)
        # Steps nothing, for it has no parameters: counts for Lightning and for the evaluator's schedule.
        self.training_module.optimizer_step(epoch, batch_idx, self.optimizers())
        self.advance_lr_schedulers(batch_idx)
        self._log_losses(losses)
        if batch_idx % self.search.log_every == 0:
            self._log_architectures()
        if batch_idx % self.trainer.log_every_n_steps == 0 or self.trainer.is_last_batch:
            self._log_training_step(train, batch_idx)
        return {"loss": losses.experts}

    def _log_losses(self, losses: Losses) -> None:
        named = {
            "gate_loss": losses.gate,
            "expert_loss": losses.experts,
            "validation_loss": losses.validation,
            "adaptation": losses.adaptation if self.search.settings.grouping == "dalbg" else None,
        }
        self.log_dict({f"lbg/{name}": value for name, value in named.items() if value is not None})
        total = sum(losses.train_groups)
        if len(losses.train_groups) > 1:
            self.log_dict({f"lbg/share_{k}": count / total for k, count in enumerate(losses.train_groups)})

    def _log_architectures(self) -> None:
        for index, expert in enumerate(self.model.experts):
            found: dict[str, Any] = {}
            for module in expert.modules():
                if hasattr(module, "export_probs"):
                    found.update(module.export_probs(found))
            self.log_dict(
                {
                    f"prob/{index}/{label}/{name}": value
                    for label, shares in found.items()
                    for name, value in shares.items()
                }
            )

    def _log_training_step(self, train: Samples, batch_idx: int) -> None:
        """Let the evaluator log what it logs of a training batch; its loss is not the one that is learned from."""
        with torch.no_grad(), BatchStatistics(update=False):
            self.training_module.training_step([train[0], train[1]], batch_idx)

    # ----------------------------------------------------------------------------- validation, checkpoints

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Validate as the evaluator does, every sample through its own expert."""
        return self.training_module.validation_step(batch, batch_idx)

    def on_validation_epoch_start(self) -> Any:
        """Hand on."""
        return self.training_module.on_validation_epoch_start()

    def on_validation_epoch_end(self) -> Any:
        """Hand on: NNI's evaluators report their metric here."""
        return self.training_module.on_validation_epoch_end()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep C, momenta and the state of the architectures' optimiser beside the modules."""
        if self.learner is not None:
            state = self.learner.state_dict()
            kept = [{label: list(names) for label, names in own.items()} for own in self.kept]
            rest = {name: value for name, value in state.items() if name not in ("experts", "gate")}
            checkpoint[STATE] = {"stage": self.stage, "kept": kept, "learner": rest}
        self.training_module.on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the stage of the checkpoint, before its weights are loaded.

        Raises:
            LbgnasError: if the checkpoint is of another strategy.
        """
        found = checkpoint.get(STATE)
        if not isinstance(found, Mapping):
            raise LbgnasError(f"LBG: the checkpoint has no {STATE!r}: it is of another strategy, or of before training")
        self.kept = [{label: tuple(names) for label, names in own.items()} for own in found["kept"]]
        if found["stage"] != self.stage:
            self._install(int(found["stage"]))
        self._state = dict(found["learner"])
        self.training_module.on_load_checkpoint(checkpoint)

    def export_experts(self) -> list[dict[str, Any]]:
        """Return the architecture of every expert, as NNI's dictionaries."""
        samples = []
        for expert in self.model.experts:
            sample: dict[str, Any] = {}
            for module in expert.modules():
                if hasattr(module, "export") and hasattr(module, "resample"):
                    sample.update(module.export(sample))
            samples.append(sample)
        return samples
