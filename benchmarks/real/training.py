"""Training of one network on some rows of a pool: plainly, with classes balanced, or by Group DRO."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, count

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lbgnas.data.batches import Batch, batches, ends_alone, num_steps
from lbgnas.data.image_data import ImageData
from lbgnas.data.seeds import derive_seed
from lbgnas.engine.schedules import cosine
from lbgnas.grouping.balance import class_weights

Loss = Callable[[Tensor, Batch], Tensor]
BATCH, RATE, MOMENTUM, DECAY, CLIP = 128, 0.05, 0.9, 3e-4, 5.0
DRO_RATE = 0.01


def plain(each: Tensor, batch: Batch) -> Tensor:
    """Return the mean over samples."""
    return each.mean()


def class_balanced(labels: Tensor, classes: int) -> Loss:
    """Return a loss in which every class of these labels weighs the same."""
    weights = class_weights(torch.bincount(labels, minlength=classes)[None].float())[0]
    return lambda each, batch: (each * weights[batch.labels]).mean()


class GroupDro:
    """Group DRO (Sagawa et al., 2020, arXiv:1911.08731): q_g grows by exp(rate * loss_g); the loss is sum_g q_g loss_g.

    A group is a cell of label and attribute: this method is told the attribute.
    """

    def __init__(self, labels: Tensor, attributes: Tensor) -> None:
        self.cells = labels * (int(attributes.max()) + 1) + attributes
        self.shares = torch.full((int(self.cells.max()) + 1,), 1.0)

    def __call__(self, each: Tensor, batch: Batch) -> Tensor:
        cell = self.cells[batch.ids]
        sums = torch.zeros_like(self.shares).index_add(0, cell, each)
        means = sums / torch.bincount(cell, minlength=len(self.shares)).clamp_min(1)
        self.shares = self.shares * (DRO_RATE * means.detach()).exp()
        self.shares = self.shares / self.shares.sum()
        return (self.shares * means).sum()


def epoch_steps(rows: Tensor) -> int:
    """Return the steps of an epoch of some rows."""
    return num_steps(len(rows), BATCH, ends_alone(len(rows), BATCH))


def train(network: nn.Module, data: ImageData, rows: Tensor, loss: Loss, steps: int, seed: int) -> nn.Module:
    """Train by SGD, its rate a cosine over the steps, on augmented rows of a pool; return the network to evaluate."""
    optimizer = torch.optim.SGD(network.parameters(), RATE, MOMENTUM, weight_decay=DECAY)
    network.train()
    torch.manual_seed(derive_seed(seed, "training") % 2**63)
    lonely = ends_alone(len(rows), BATCH)
    epochs = (
        batches(
            data, rows, BATCH, seed=seed, words=("training", epoch), augment=True, drop_last=lonely, channels_last=True
        )
        for epoch in count()
    )
    for step, batch in zip(range(steps), chain.from_iterable(epochs), strict=False):
        optimizer.param_groups[0]["lr"] = cosine(RATE, 0.0, step, steps)
        each = F.cross_entropy(network(batch.images).logits, batch.labels, reduction="none")
        optimizer.zero_grad()
        loss(each, batch).backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
    return network.eval()
