"""Ordinary training of networks on some samples, step by step: batches, a loss, an optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lbgnas.data.batches import Batch, batches, ends_alone, num_steps
from lbgnas.data.image_data import ImageData
from lbgnas.data.seeds import derive_seed
from lbgnas.engine.schedules import cosine
from lbgnas.group_settings import FinetuneSettings, GroupSettings
from lbgnas.grouping.learner import NonFinite
from lbgnas.grouping.objectives import mixture_loss
from lbgnas.networks.comparison import OwnLoss

BatchLoss = Callable[[Batch], Tensor]


class PlainTraining:
    """Networks, and the samples they are trained on.

    Args:
        settings: rates, epochs, sizes, seed.
        data: where the samples are.
        rows: their ids.
        name: of this training; its draws depend on it.
        modules: trained in place.
        loss: of a batch.
        device: where to compute.
    """

    def __init__(
        self,
        settings: GroupSettings,
        data: ImageData,
        rows: Tensor,
        name: str,
        modules: Sequence[nn.Module],
        loss: BatchLoss,
        device: torch.device,
    ) -> None:
        self.settings, self.data, self.rows, self.device = settings, data, rows, device
        self.name, self.modules, self.loss = name, modules, loss
        self.parameters = [value for module in modules for value in module.parameters()]
        self.optimizer = make_optimizer(self.parameters, settings.finetune)
        self.drop_last = ends_alone(len(rows), settings.batch_size)

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return num_steps(len(self.rows), self.settings.batch_size, self.drop_last)

    def exhausted(self, epochs: int) -> bool:
        """Return whether it is over after so many epochs; fewer than two samples cannot be trained on."""
        return epochs >= self.settings.finetune.epochs or len(self.rows) < 2

    def begin_epoch(self, epoch: int) -> None:
        """Prepare for an epoch, from its first step or from any other: the rate follows a cosine to 0."""
        own = self.settings.finetune
        for group in self.optimizer.param_groups:
            group["lr"] = cosine(own.rate, 0.0, epoch, own.epochs)
        for module in self.modules:
            module.train()
            if isinstance(module, OwnLoss):
                module.begin_epoch(epoch, own.epochs)

    def stream(self, epoch: int, start: int) -> Iterator[Batch]:
        """Return the batches of an epoch from a step on."""
        return batches(
            self.data,
            self.rows,
            self.settings.batch_size,
            seed=self.settings.seed,
            words=(self.name, epoch),
            augment=True,
            cutout=self.settings.finetune.cutout,
            device=self.device,
            start=start,
            drop_last=self.drop_last,
        )

    def step(self, batch: Batch, epoch: int, step: int) -> dict[str, float]:
        """Take one step and return its loss.

        Raises:
            NonFinite: the loss is NaN or infinite.
        """
        # A seed for every step: what is dropped is the same whether or not the run was stopped before.
        torch.manual_seed(derive_seed(self.settings.seed, self.name, epoch, step) % 2**63)
        loss = self.loss(batch)
        value = float(loss.detach())
        if not torch.isfinite(loss.detach()):
            raise NonFinite(f"the loss is {value}; lower finetune.rate")
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.finetune.clip)
        self.optimizer.step()
        return {"loss": value}

    def end_epoch(self, epoch: int, means: Mapping[str, float]) -> dict[str, Any]:
        """Return the record of an epoch with these mean losses."""
        return {**means, "samples": len(self.rows)}

    def go_back(self) -> None:
        """Nothing: the last epoch is what counts."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a step depends on beside the networks."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self.optimizer.load_state_dict(state["optimizer"])


def make_optimizer(parameters: Iterable[nn.Parameter], settings: FinetuneSettings) -> torch.optim.Optimizer:
    """Return the optimiser of a training from its start."""
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, settings.rate, weight_decay=settings.decay)
    return torch.optim.SGD(parameters, settings.rate, settings.momentum, weight_decay=settings.decay)


def network_loss(network: nn.Module, weights: Tensor | None) -> BatchLoss:
    """Return the loss of one network: its own if it has one, else the weighted cross-entropy."""
    if isinstance(network, OwnLoss):
        return lambda batch: network.training_loss(batch.images, batch.labels)
    return lambda batch: weighted_loss(network(batch.images), batch.labels, weights)


def mixture_batch_loss(gate: nn.Module, experts: Sequence[nn.Module]) -> BatchLoss:
    """Return the loss of gate and experts that learn together (Jacobs et al., 1991)."""

    def loss(batch: Batch) -> Tensor:
        probs = gate(batch.images).softmax(1)
        return mixture_loss([expert(batch.images) for expert in experts], batch.labels, probs)

    return loss


def weighted_loss(logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float = 0.0) -> Tensor:
    """Return mean_n w_(y_n) CE_n; unlike torch's weighted mean not divided by the weights of the batch."""
    each = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    return (each if weights is None else each * weights[labels]).mean()
