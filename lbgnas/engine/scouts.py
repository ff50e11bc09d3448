"""Scouts of a search: small convolutional experts on its own data, for a start of gate and C."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from lbgnas.data.batches import Batch, batches
from lbgnas.data.image_data import ImageData
from lbgnas.data.seeds import derive_seed
from lbgnas.data.split import Split
from lbgnas.engine.plan import Plan
from lbgnas.grouping.scouting import Scout, Scouted, best_scout
from lbgnas.grouping.sgd import Sgd
from lbgnas.networks.gate import SmallGate
from lbgnas.ranks import ALONE, Ranks

EXPERT_WIDTH = 8


def run_scouts(
    plan: Plan,
    data: ImageData,
    split: Split,
    device: torch.device,
    on_batch: Callable[[], None],
    ranks: Ranks = ALONE,
) -> Scouted:
    """Return what the best scout found.

    The experts are networks of the gate's form with a class for each output.

    Args:
        plan: of the search; its settings say how many scouts there are.
        data: the pool.
        split: its halves.
        device: where to compute.
        on_batch: called before every batch; may raise to stop.
        ranks: the processes that share the scouts.
    """
    settings, info = plan.settings, data.info
    gate = settings.gate
    common: dict[str, Any] = {"seed": settings.seed, "device": device, "multiple": plan.size_multiple}

    def watched(stream: Iterator[Batch]) -> Iterator[Batch]:
        for batch in stream:
            on_batch()
            yield batch

    def train(number: int, epoch: int) -> Iterator[Batch]:
        words = ("scout", number, epoch)
        return watched(batches(data, split.train, settings.batch_size, words=words, augment=True, **common))

    def validation() -> Iterator[Batch]:
        words = ("scout",)
        return watched(batches(data, split.validation, settings.batch_size, words=words, augment=False, **common))

    def make(number: int) -> Scout:
        torch.manual_seed(derive_seed(settings.seed, "scout", number) % 2**63)
        own = SmallGate(info.channels, settings.experts, gate.width).to(device)
        experts = [SmallGate(info.channels, info.num_classes, EXPERT_WIDTH).to(device) for _ in range(settings.experts)]
        return Scout(own, experts, 0.0 if number % 2 else gate.mutual_information)

    scouts = [partial(make, number) for number in range(gate.scouts)]
    sgd = Sgd(gate.rate, gate.momentum, gate.decay, settings.weights.clip)
    return best_scout(scouts, train, validation, len(data), gate.scout_epochs, sgd, ranks)
