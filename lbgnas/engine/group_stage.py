"""The three levels with fixed networks: gate, experts and C are learned, there is no A."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lbgnas.data.batches import batches, num_steps
from lbgnas.data.image_data import ImageData
from lbgnas.data.seeds import derive_seed
from lbgnas.data.split import Split
from lbgnas.engine.checkpoint import to_device
from lbgnas.engine.inference import accuracy, answers, gate_groups
from lbgnas.engine.interrupts import Interrupted, Interrupts
from lbgnas.engine.record import entropy, group_shares
from lbgnas.engine.reporting import Reporter
from lbgnas.engine.schedules import cosine
from lbgnas.engine.three_levels import learner_start, three_levels
from lbgnas.group_settings import GroupSettings
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.learner import Learner, NonFinite
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

    def run_epoch(self, epoch: int, interrupts: Interrupts, report: Reporter) -> dict[str, Any]:
        """Learn for one epoch and return its record.

        Raises:
            NonFinite: a level gave NaN or infinity.
            Interrupted: the user or the system asked to stop; what this epoch did is not kept.
        """
        learner, levels = self.learner, self.levels(epoch)
        for module in learner.experts.modules:
            module.train()
        sums = torch.zeros(3, dtype=torch.float64)
        steps = num_steps(len(self.split.train), self.settings.batch_size)
        validation = self._stream(self.split.validation, "validation", epoch)
        for step, train in enumerate(self._stream(self.split.train, "train", epoch)):
            held_out = next(validation, None)
            if held_out is None:
                validation = self._stream(self.split.validation, "validation", epoch, step)
                held_out = next(validation)
            torch.manual_seed(derive_seed(self.settings.seed, "step", epoch, step) % 2**63)
            try:
                losses = learner.step(train, held_out, levels)
            except NonFinite as error:
                raise NonFinite(f"groups, epoch {epoch + 1}, step {step + 1}: {error}") from None
            assert losses.gate is not None
            assert losses.validation is not None
            seen = torch.stack([losses.gate, losses.experts, losses.validation]).detach().double().cpu()
            sums += seen
            names = ("gate", "experts", "validation")
            report.step(dict(zip(names, (sums / (step + 1)).tolist(), strict=True)))
            if interrupts.received is not None:
                raise Interrupted(f"stopped in epoch {epoch + 1} of the groups", interrupts.received)
        gate_loss, expert_loss, validation_loss = (sums / steps).tolist()
        found = answers(learner.gate, learner.experts.modules, self.data, self.split.validation, self.device)
        probs = gate_groups(learner.gate, self.data, self.split.train, self.device)
        reached = accuracy(found.routed, found.labels)
        if self.settings.patience is not None and (self.best is None or reached > self.best["accuracy"]):
            self.best = {"accuracy": reached, "epoch": epoch, "learner": copy.deepcopy(learner.state_dict())}
        return {
            "gate_loss": gate_loss,
            "expert_loss": expert_loss,
            "validation_loss": validation_loss,
            "validation_accuracy": reached,
            "group_share": group_shares(probs.argmax(1), probs.shape[1]),
            "group_entropy": entropy(probs.mean(0)),
        }

    def _stream(self, ids: Tensor, half: str, epoch: int, turn: int = 0) -> Any:
        return batches(
            self.data,
            ids,
            self.settings.batch_size,
            seed=self.settings.seed,
            words=(half, epoch, turn),
            augment=True,
            device=self.device,
        )

    def exhausted(self, epochs: int) -> bool:
        """Return whether the patience has run out after so many epochs."""
        patience = self.settings.patience
        return patience is not None and self.best is not None and epochs - 1 - int(self.best["epoch"]) >= patience

    def go_back(self) -> None:
        """Return to the best epoch, if that was asked for."""
        if self.best is not None:
            self.learner.load_state_dict(self.best["learner"])

    def state_dict(self) -> dict[str, Any]:
        """Return everything an epoch depends on."""
        return {"learner": self.learner.state_dict(), "best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self.learner.load_state_dict(to_device(state["learner"], self.device))
        self.best = to_device(state["best"], self.device)
