"""The three levels with fixed networks: gate, experts and C are learned, there is no A."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lbgnas.data.batches import Batch, batches, num_steps
from lbgnas.data.image_data import ImageData
from lbgnas.data.seeds import derive_seed
from lbgnas.data.split import Split
from lbgnas.engine.checkpoint import to_device
from lbgnas.engine.inference import accuracy, answers, gate_groups
from lbgnas.engine.record import entropy, group_shares
from lbgnas.engine.schedules import cosine
from lbgnas.engine.three_levels import learner_start, three_levels
from lbgnas.group_settings import GroupSettings
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.learner import Learner
from lbgnas.grouping.levels import Levels


class GroupStage:
    """Algorithm 1 without A: stage I on the training half, II on it, III (C alone) on the validation half.

    Args:
        settings: everything it depends on.
        data: the pool.
        split: its halves.
        experts, gate: K modules and the gate, trained in place.
        device: where to compute.
    """

    def __init__(
        self,
        settings: GroupSettings,
        data: ImageData,
        split: Split,
        experts: list[nn.Module],
        gate: nn.Module,
        device: torch.device,
    ) -> None:
        self.settings, self.data, self.split, self.device = settings, data, split, device
        logits, rows, balanced = learner_start(
            settings, settings.seed, len(data), len(experts), data.info.num_classes, device
        )
        self.learner = Learner(Experts(experts), gate, logits, rows, balance_classes=balanced)
        self.best: dict[str, Any] | None = None

    def levels(self, epoch: int) -> Levels:
        """Return how the three levels are taken in an epoch."""
        settings, weights, gate = self.settings, self.settings.weights, self.settings.routing
        rate = cosine(weights.rate, weights.rate_min, epoch, settings.epochs)
        gate_rate = gate.rate * rate / weights.rate
        return three_levels(settings, gate, weights, settings.method == "dalbg", rate, gate_rate, False)

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return num_steps(len(self.split.train), self.settings.batch_size)

    def begin_epoch(self, epoch: int) -> None:
        """Prepare for an epoch, from its first step or from any other."""
        for module in self.learner.experts.modules:
            module.train()

    def stream(self, epoch: int, start: int) -> Iterator[tuple[Batch, Batch]]:
        """Return the batches of both halves from a step on; a shorter validation half begins again."""
        rounds = num_steps(len(self.split.validation), self.settings.batch_size)

        def validation() -> Iterator[Batch]:
            turn, offset = divmod(start, rounds)
            while True:
                yield from self._half(self.split.validation, "validation", epoch, turn, offset)
                turn, offset = turn + 1, 0

        return zip(self._half(self.split.train, "train", epoch, 0, start), validation(), strict=False)

    def _half(self, ids: Tensor, half: str, epoch: int, turn: int, start: int) -> Iterator[Batch]:
        return batches(
            self.data,
            ids,
            self.settings.batch_size,
            seed=self.settings.seed,
            words=(half, epoch, turn),
            augment=True,
            device=self.device,
            start=start,
        )

    def step(self, pair: tuple[Batch, Batch], epoch: int, step: int) -> dict[str, float]:
        """Take one iteration of the three levels and return its losses.

        Raises:
            NonFinite: a level gave NaN or infinity.
        """
        torch.manual_seed(derive_seed(self.settings.seed, "step", epoch, step) % 2**63)
        losses = self.learner.step(*pair, self.levels(epoch))
        assert losses.gate is not None
        assert losses.validation is not None
        seen = torch.stack([losses.gate, losses.experts, losses.validation]).detach().double().tolist()
        return dict(zip(("gate_loss", "expert_loss", "validation_loss"), seen, strict=True))

    def end_epoch(self, epoch: int, means: Mapping[str, float]) -> dict[str, Any]:
        """Return the record of an epoch with these mean losses, and remember the best epoch if that is wanted."""
        learner = self.learner
        found = answers(learner.gate, learner.experts.modules, self.data, self.split.validation, self.device)
        probs = gate_groups(learner.gate, self.data, self.split.train, self.device)
        reached = accuracy(found.routed, found.labels)
        if self.settings.patience is not None and (self.best is None or reached > self.best["accuracy"]):
            self.best = {"accuracy": reached, "epoch": epoch, "learner": copy.deepcopy(learner.state_dict())}
        return {
            **means,
            "validation_accuracy": reached,
            "group_share": group_shares(probs.argmax(1), probs.shape[1]),
            "group_entropy": entropy(probs.mean(0)),
        }

    def exhausted(self, epochs: int) -> bool:
        """Return whether it is over after so many epochs: all are done, or the patience has run out."""
        patience = self.settings.patience
        if epochs >= self.settings.epochs:
            return True
        return patience is not None and self.best is not None and epochs - 1 - int(self.best["epoch"]) >= patience

    def go_back(self) -> None:
        """Return to the best epoch, if that was asked for."""
        if self.best is not None:
            self.learner.load_state_dict(self.best["learner"])

    def state_dict(self) -> dict[str, Any]:
        """Return everything a step depends on."""
        return {"learner": self.learner.state_dict(), "best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self.learner.load_state_dict(to_device(state["learner"], self.device))
        self.best = to_device(state["best"], self.device)
