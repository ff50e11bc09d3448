"""A start for gate and C: small soft mixtures of experts from several starts, of which validation picks one.

From a random C the three levels fall into whatever split the gate can fit first. A scout is a gate with K small
experts, trained jointly by the likelihood of their soft mixture, with or without the information term. It is of first
order and cheap. The scout whose routed experts do best on validation samples gives the gate its weights and C its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lbgnas.grouping.levels import Samples
from lbgnas.grouping.objectives import cross_entropy, mixture_loss, negative_mutual_information
from lbgnas.grouping.sgd import Sgd
from lbgnas.ranks import ALONE, Ranks

LARGEST = 2.0
"""Nats by which a row of C's logits may differ at the start: a row that is sure could not be moved any more."""


class Scout(NamedTuple):
    """A gate with K small experts, and the weight of the information term it is trained with."""

    gate: nn.Module
    experts: Sequence[nn.Module]
    mutual_information: float


class Scouted(NamedTuple):
    """What the best scout found.

    Attributes:
        gate: its gate.
        assignment_logits: rows of Z for the training samples, zeros for all others, (samples, K).
        mutual_information: the weight it was trained with.
        losses: validation loss of every scout, in their order.
    """

    gate: nn.Module
    assignment_logits: Tensor
    mutual_information: float
    losses: tuple[float, ...]


def train_scout(scout: Scout, epochs: Sequence[Iterable[Samples]], settings: Sgd) -> None:
    """Minimise -log sum_k f_k p_k(y), plus the weighted negative information of the gate, by SGD with a cosine.

    Args:
        scout: trained in place.
        epochs: the batches of each epoch.
        settings: of the SGD.
    """
    modules = nn.ModuleList([scout.gate, *scout.experts]).train()
    optimizer = torch.optim.SGD(
        modules.parameters(), settings.rate, settings.momentum, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(len(epochs), 1))
    for epoch in epochs:
        for images, labels, _ in epoch:
            log_probs = scout.gate(images).log_softmax(1)
            loss = mixture_loss([expert(images) for expert in scout.experts], labels, log_probs.exp())
            if scout.mutual_information:
                loss = loss + scout.mutual_information * negative_mutual_information(log_probs)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            if settings.clip is not None:
                nn.utils.clip_grad_norm_(modules.parameters(), settings.clip)
            optimizer.step()
        schedule.step()


@torch.no_grad()
def routed_loss(scout: Scout, batches: Iterable[Samples]) -> float:
    """Return the mean cross-entropy of the experts that the gate chooses."""
    losses = []
    for images, labels, _ in batches:
        group = scout.gate(images).argmax(1)
        each = torch.stack([cross_entropy(expert(images), labels) for expert in scout.experts], 1)
        losses.append(each.gather(1, group[:, None])[:, 0])
    return float(torch.cat(losses).mean())


def posterior_logits(scout: Scout, images: Tensor, labels: Tensor) -> Tensor:
    """Return log f_k(x) + log p_k(y | x) up to a constant, at least -LARGEST, with 0 for the likeliest group.

    Example:
        >>> gate, experts = nn.Linear(2, 2), [nn.Linear(2, 3) for _ in range(2)]
        >>> found = posterior_logits(Scout(gate, experts, 0.0), torch.ones(4, 2), torch.zeros(4, dtype=torch.long))
        >>> found.shape, found.max().item()
        (torch.Size([4, 2]), 0.0)
    """
    with torch.no_grad():
        each = torch.stack([-cross_entropy(expert(images), labels) for expert in scout.experts], 1)
        joint = scout.gate(images).log_softmax(1) + each
    logits: Tensor = (joint - joint.amax(1, keepdim=True)).clamp_min(-LARGEST)
    return logits


def best_scout(
    scouts: Sequence[Callable[[], Scout]],
    train: Callable[[int, int], Iterable[Samples]],
    validation: Callable[[], Iterable[Samples]],
    samples: int,
    epochs: int,
    settings: Sgd,
    ranks: Ranks = ALONE,
) -> Scouted:
    """Train every scout and return what the best of them found, its gate on the CPU.

    Args:
        scouts: each makes one.
        train: batches of the training samples, given the scout's number and the epoch.
        validation: batches of the validation samples.
        samples: rows of Z.
        epochs: of each scout.
        settings: of their SGD.
        ranks: the processes that share the scouts; the answer is the same in all.
    """
    best: Scout | None = None
    own: dict[int, float] = {}
    for number in filter(ranks.owns, range(len(scouts))):
        scout = scouts[number]()
        train_scout(scout, [train(number, epoch) for epoch in range(epochs)], settings)
        loss = routed_loss(scout, validation())
        # A scout that went astray (NaN) is never the best.
        if best is None or loss < min(own.values()):
            best = scout
        own[number] = loss if loss == loss else float("inf")
    known = {number: loss for part in ranks.gathered(own) for number, loss in part.items()}
    losses = tuple(known[number] for number in range(len(scouts)))
    winner = losses.index(min(losses))
    found = None
    if ranks.owns(winner):
        assert best is not None
        rows = _assignment_rows(best, train(0, 0), samples)
        found = Scouted(best.gate.cpu(), rows, best.mutual_information, losses)
    result = ranks.gathered(found)[winner % ranks.count]
    assert result is not None
    return result


def _assignment_rows(scout: Scout, batches: Iterable[Samples], samples: int) -> Tensor:
    logits = torch.zeros(samples, len(scout.experts))
    for images, labels, ids in batches:
        rows = posterior_logits(scout, images, labels).cpu()
        logits[ids.cpu()] = rows.to(logits.dtype)
    return logits
