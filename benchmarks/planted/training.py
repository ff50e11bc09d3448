"""Plain training, the same recipe for every method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor, nn

from lbgnas.engine.schedules import cosine


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum and a cosine; epochs are those of a data set of `Problem.pool`'s size."""

    epochs: int
    batch: int
    rate: float
    momentum: float = 0.9
    decay: float = 3e-4
    clip: float = 5.0


RECIPES = {"linear": Recipe(40, 256, 0.3), "cnn": Recipe(15, 64, 0.05), "supernet": Recipe(8, 128, 0.1)}


def shuffled(count: int, size: int, epochs: int, generator: torch.Generator) -> Iterator[tuple[int, Tensor]]:
    """Yield (epoch, row indices); a last batch of one sample is left out."""
    for epoch in range(epochs):
        order = torch.randperm(count, generator=generator)
        for rows in torch.split(order, size):
            if len(rows) > 1:
                yield epoch, rows


def fit(
    model: nn.Module,
    count: int,
    loss: Callable[[nn.Module, Tensor], Tensor],
    recipe: Recipe,
    seed: int,
) -> nn.Module:
    """Train a model on `count` samples with loss(model, rows)."""
    learned = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(learned, recipe.rate, recipe.momentum, weight_decay=recipe.decay)
    generator = torch.Generator().manual_seed(seed)
    for epoch, rows in shuffled(count, recipe.batch, recipe.epochs, generator):
        optimizer.param_groups[0]["lr"] = cosine(recipe.rate, 0.0, epoch, recipe.epochs)
        optimizer.zero_grad()
        loss(model, rows).backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
    return model.eval()


def fit_classifier(
    model: nn.Module, x: Tensor, y: Tensor, recipe: Recipe, seed: int, weight: Tensor | None = None
) -> nn.Module:
    """Train with cross-entropy; `weight` is one number a sample."""

    def loss(network: nn.Module, rows: Tensor) -> Tensor:
        each = F.cross_entropy(network(x[rows]), y[rows], reduction="none")
        return (each if weight is None else each * weight[rows]).mean()

    return fit(model, len(y), loss, recipe, seed)


@torch.no_grad()
def logits_of(model: nn.Module, x: Tensor, size: int = 2000) -> Tensor:
    """Return the logits of all samples."""
    return torch.cat([model(part) for part in torch.split(x, size)])


def k_means(x: Tensor, groups: int, seed: int) -> KMeans:
    """Return clusters of rows, (samples, features)."""
    return KMeans(groups, n_init=4, random_state=seed).fit(x.numpy())
