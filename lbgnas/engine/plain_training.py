"""One epoch of ordinary training: batches, a loss, an optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lbgnas.data.batches import Batch
from lbgnas.engine.interrupts import Interrupted, Interrupts
from lbgnas.engine.reporting import Reporter
from lbgnas.engine.schedules import cosine
from lbgnas.group_settings import FinetuneSettings
from lbgnas.grouping.learner import NonFinite


def make_optimizer(parameters: Iterable[nn.Parameter], settings: FinetuneSettings) -> torch.optim.Optimizer:
    """Return the optimiser of a training from its start."""
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, settings.rate, weight_decay=settings.decay)
    return torch.optim.SGD(parameters, settings.rate, settings.momentum, weight_decay=settings.decay)


def train_epoch(
    loss_of: Callable[[Batch], Tensor],
    optimizer: torch.optim.Optimizer,
    stream: Iterable[Batch],
    settings: FinetuneSettings,
    epoch: int,
    where: str,
    report: Reporter,
    interrupts: Interrupts,
) -> float:
    """Train for one epoch, the rate following a cosine to 0, and return the mean loss over its steps.

    Args:
        loss_of: the loss of a batch.
        optimizer: moves what it was made for.
        stream: the epoch's batches.
        settings: rates, epochs and clip.
        epoch: from 0.
        where: which training this is, for messages.
        report: receives each step.
        interrupts: looked at after each step.

    Raises:
        NonFinite: a loss is NaN or infinite.
        Interrupted: the user or the system asked to stop; what this epoch did is not kept.
    """
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    for group in optimizer.param_groups:
        group["lr"] = cosine(settings.rate, 0.0, epoch, settings.epochs)
    total, steps = 0.0, 0
    for batch in stream:
        loss = loss_of(batch)
        value = float(loss.detach())
        if not torch.isfinite(loss.detach()):
            raise NonFinite(f"{where}, epoch {epoch + 1}, step {steps + 1}: the loss is {value}; lower finetune.rate")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
        optimizer.step()
        total, steps = total + value, steps + 1
        report.step({"loss": total / steps})
        if interrupts.received is not None:
            raise Interrupted(f"stopped in epoch {epoch + 1} of {where}", interrupts.received)
    return total / max(steps, 1)
