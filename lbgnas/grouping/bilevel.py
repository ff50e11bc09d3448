"""The bases' own two-level step for one network: the reference that grouping none is held to."""

from __future__ import annotations

import torch
from torch import Tensor

from lbgnas.batch_statistics import BatchStatistics
from lbgnas.grouping.checks import check_samples
from lbgnas.grouping.experts import Experts, architecture_slopes
from lbgnas.grouping.hypergradient import FirstOrder
from lbgnas.grouping.levels import Levels, Samples
from lbgnas.grouping.objectives import cross_entropy
from lbgnas.grouping.sgd import Tensors, sgd_step, through_step


def bilevel_gradients(
    experts: Experts, train: Samples, validation: Samples, levels: Levels, buffers: Tensors | None
) -> tuple[Tensors, Tensor, Tensor]:
    """Return dL_val(S', A)/dA with S' = S - eta (mu b + g + wd S) not clipped, L_val, and the right answers.

    First order: S' = S. Nothing is committed and running statistics stay. Adaptation plays no part: one expert has no
    rest.

    Raises:
        LbgnasError: if a batch does not fit together, or an architecture parameter gets no gradient.
    """
    check_samples(train, "training")
    check_samples(validation, "validation")
    frozen = BatchStatistics(update=False)
    weights, architecture = experts.weights(0), experts.architecture(0)

    def loss(own: Tensors, alphas: Tensors, samples: Samples, statistics: BatchStatistics) -> tuple[Tensor, Tensor]:
        logits, _ = experts.call(0, own, alphas, samples[0], statistics)
        each = cross_entropy(logits, samples[1])
        if levels.class_weights is not None and samples is train:
            each = levels.class_weights[0, samples[1]] * each
        return each.mean(), (logits.detach().argmax(1) == samples[1]).sum()

    second_order = not isinstance(levels.hypergradient, FirstOrder)
    settings = levels.experts._replace(clip=None)
    stepped = weights
    gradient: Tensors = {}
    if second_order:
        leaves = {name: value.requires_grad_() for name, value in weights.items()}
        train_loss, _ = loss(leaves, architecture, train, frozen)
        found = torch.autograd.grad(train_loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        gradient = dict(zip(leaves, found, strict=True))
        known = buffers or {name: torch.zeros_like(value) for name, value in weights.items()}
        stepped, _ = sgd_step(weights, gradient, known, settings)
    alphas = {name: value.requires_grad_() for name, value in architecture.items()}
    ends = {name: value.detach().requires_grad_(second_order) for name, value in stepped.items()}
    validation_loss, correct = loss(ends, alphas, validation, frozen)
    wanted = [*alphas.values(), *(ends.values() if second_order else [])]
    slopes = torch.autograd.grad(validation_loss, wanted, allow_unused=True)
    direct = architecture_slopes(0, alphas, slopes)
    if not second_order:
        return direct, validation_loss.detach(), correct
    rest = zip(ends.items(), slopes[len(alphas) :], strict=True)
    covector = {name: torch.zeros_like(value) if slope is None else slope for (name, value), slope in rest}
    direction = through_step(covector, gradient, settings)

    def train_loss_of(own: Tensors, composed: bool) -> Tensor:
        return loss(own, alphas, train, BatchStatistics(update=False, composed=composed))[0]

    start = {name: value.detach() for name, value in weights.items()}
    mixed = levels.hypergradient.mixed(train_loss_of, start, direction, list(alphas.values()))
    if mixed is None:
        return direct, validation_loss.detach(), correct
    total = {name: direct[name] - term for name, term in zip(direct, mixed, strict=True)}
    return total, validation_loss.detach(), correct
