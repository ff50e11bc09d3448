"""What the evaluator says of optimiser and loss, in the terms of the three levels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from lbgnas.config import WeightSettings
from lbgnas.errors import LbgnasError


def _parts(configured: Any) -> Iterator[Any]:
    """Yield what is in the answer of `configure_optimizers`, in whatever form Lightning lets it have."""
    if isinstance(configured, dict):
        configured = list(configured.values())
    if isinstance(configured, (list, tuple)):
        for part in configured:
            yield from _parts(part)
    else:
        yield configured


def only_optimizer(configured: Any) -> torch.optim.SGD:
    """Return the evaluator's optimizer.

    Its settings and its schedule are what the levels use; the steps are theirs. So that it moves nothing itself, its
    parameters are taken from it.

    Raises:
        LbgnasError: unless it is one plain SGD with the same settings for all weights, and no schedule that follows a
            metric.
    """
    parts = list(_parts(configured))
    if any(isinstance(part, torch.optim.lr_scheduler.ReduceLROnPlateau) for part in parts):
        raise LbgnasError("LBG: ReduceLROnPlateau follows a metric, which NNI's one-shot search does not hand on")
    found = [part for part in parts if isinstance(part, torch.optim.Optimizer)]
    if len(found) != 1:
        raise LbgnasError(f"LBG: the evaluator has {len(found)} optimizers; one torch.optim.SGD is needed")
    optimizer = found[0]
    if type(optimizer) is not torch.optim.SGD:
        raise LbgnasError(
            f"LBG: the evaluator's optimizer is {type(optimizer).__name__}; the hypergradients go through a step of "
            f"torch.optim.SGD, so give it that (Classification(optimizer=torch.optim.SGD, ...))"
        )
    groups = optimizer.param_groups
    for key, allowed in (("nesterov", False), ("maximize", False), ("dampening", 0)):
        if any(group[key] != allowed for group in groups):
            raise LbgnasError(f"LBG: the evaluator's SGD has {key}={groups[0][key]}; only {key}={allowed} is supported")
    for key in ("lr", "momentum", "weight_decay"):
        if len({float(group[key]) for group in groups}) > 1:
            raise LbgnasError(f"LBG: the evaluator's SGD has groups of different {key}; one for all weights is needed")
    for group in groups:
        group["params"] = []
    return optimizer


def weight_settings(optimizer: torch.optim.Optimizer, clip: float | None) -> WeightSettings:
    """Return momentum, decay and clip of the experts' steps; the rate is read at every step."""
    group = optimizer.param_groups[0]
    usual = WeightSettings()
    return usual.model_copy(
        update={
            "momentum": float(group["momentum"]),
            "decay": float(group["weight_decay"]),
            "clip": usual.clip if clip is None else clip,
        }
    )


def check_criterion(module: nn.Module) -> None:
    """Refuse an evaluator whose criterion is not the cross entropy of the levels.

    Raises:
        LbgnasError: names the criterion.
    """
    criterion = getattr(module, "criterion", None)
    if criterion is None:
        return
    if not isinstance(criterion, nn.CrossEntropyLoss) or criterion.label_smoothing or criterion.weight is not None:
        raise LbgnasError(
            f"LBG: the evaluator's criterion is {criterion}; the three levels are cross entropies (plain "
            f"nn.CrossEntropyLoss, with expert_balance='class' for classes of equal weight)"
        )


def class_count(module: nn.Module) -> int | None:
    """Return the number of classes that the evaluator's metrics know of, None where they know of none."""
    for metric in getattr(module, "metrics", {}).values():
        count = getattr(metric, "num_classes", None)
        if isinstance(count, int):
            return count
    return None
