"""The stages of one iteration of Algorithm 1, one pure function each; only running statistics move.

T is the gate, S the experts' weights, A their architectures, B the training and V the validation batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lbgnas.batch_statistics import BatchStatistics
from lbgnas.grouping.assignments import assigned, assignment_gradient
from lbgnas.grouping.experts import Experts, architecture_slopes
from lbgnas.grouping.levels import Levels, Samples
from lbgnas.grouping.objectives import (
    expert_loss,
    gate_loss,
    mixture_loss,
    negative_mutual_information,
    route,
    validation_loss,
)
from lbgnas.grouping.sgd import Tensors, norm, sgd_step, through_step


class GateStep(NamedTuple):
    """Stage I: T and its gradient, T' and its momentum, and what T' answers (still attached to T')."""

    loss: Tensor
    mutual_information: Tensor
    start: Tensors
    gradient: Tensors
    stepped: Tensors
    buffers: Tensors
    assigned_group: Tensor
    train_output: Tensor
    validation_output: Tensor


class ExpertSteps(NamedTuple):
    """Stage II by expert: the rows of B routed to each; where there are any, grad_S L2, S' and its momentum.

    With several processes: of the experts of this one, but for the rows.
    """

    own: list[Tensor]
    gradients: dict[int, Tensors]
    stepped: dict[int, Tensors]
    buffers: dict[int, Tensors]
    loss: Tensor
    adaptation: Tensor
    gradient_norm: Tensor


class Validation(NamedTuple):
    """Stage III: L3, and its gradients with respect to A, to S' and to the gate's outputs on V."""

    loss: Tensor
    correct: Tensor
    confidence: Tensor
    own: list[Tensor]
    architecture: dict[int, Tensors]
    weights: dict[int, Tensors]
    outputs: Tensor


def groups_of(batches: Sequence[Tensor], count: int) -> list[list[Tensor]]:
    """Return for each batch's groups (batch,) the row indices of each group, in the order of the batch.

    One look at the counts of all: it waits for the device.

    Example:
        >>> groups_of([torch.tensor([1, 0, 1])], 3)
        [[tensor([1]), tensor([0, 2]), tensor([], dtype=torch.int64)]]
    """
    counts = torch.stack([torch.bincount(group, minlength=count) for group in batches]).tolist()
    return [list(torch.split(group.argsort(stable=True), own)) for group, own in zip(batches, counts, strict=True)]


def _leaves(tensors: Tensors) -> Tensors:
    return {name: value.detach().requires_grad_() for name, value in tensors.items()}


def _zeros(tensors: Tensors) -> Tensors:
    return {name: torch.zeros_like(value) for name, value in tensors.items()}


def _filled(tensors: Tensors, found: Sequence[Tensor | None]) -> Tensors:
    pairs = zip(tensors.items(), found, strict=True)
    return {name: torch.zeros_like(value) if slope is None else slope for (name, value), slope in pairs}


def _log_probs(gate: nn.Module, weights: Tensors, images: Tensor) -> Tensor:
    output: Tensor = functional_call(gate, weights, (images,)).log_softmax(1)
    return output


def second_level(
    experts: Experts,
    index: int,
    own: Tensor,
    samples: Samples,
    weights: Tensors,
    architecture: Tensors,
    probs: Tensor,
    levels: Levels,
    statistics: BatchStatistics,
) -> tuple[Tensor, Tensor]:
    """Return expert k's share of L2 and, inside it, lambda M_k (Eq. 3, 7, 8).

    Class weights, where there are any, multiply the classification term of each sample.

    With adaptation, the samples of other groups pass the expert too, normalised by the statistics of its own: so the
    classification term is the same for every lambda. It is left out where K = 1, for then there is no rest, and where
    the expert has fewer than 2 samples, of which the rest cannot take statistics.
    """
    x, labels, _ = samples
    batch = len(labels)
    confidence, adaptation = probs[own, index], levels.adaptation
    if levels.class_weights is not None:
        confidence = confidence * levels.class_weights[index, labels[own]]
    if adaptation is None or adaptation.weight == 0 or len(experts) == 1 or len(own) < 2:
        logits, _ = experts.call(index, weights, architecture, x[own], statistics)
        return expert_loss(logits, labels[own], confidence, batch), confidence.new_zeros(())
    rest = torch.ones(batch, dtype=torch.bool, device=x.device)
    rest[own] = False
    rows = rest.to(torch.uint8).argsort(stable=True)  # its own first, without a look at how many the others are
    policy = BatchStatistics(update=statistics.update, composed=statistics.composed, rows=len(own))
    logits, features = experts.call(index, weights, architecture, x[rows], policy, want_features=True)
    distance = adaptation.weight * adaptation.distance(features, probs[rows, index], labels[rows])
    return expert_loss(logits[: len(own)], labels[own], confidence, batch) + distance, distance


def stage_one(
    gate: nn.Module,
    assignment_logits: Tensor,
    train: Samples,
    validation: Samples,
    levels: Levels,
    buffers: Tensors | None,
) -> GateStep:
    """Return T' = T - eta_T grad_T L1(T; Z) (Eq. 11) and the outputs of T' on both batches."""
    start = {name: value.detach() for name, value in gate.named_parameters()}
    leaves = _leaves(start)
    with BatchStatistics(update=True):
        log_probs = _log_probs(gate, leaves, train[0])
    assigned_prob, assigned_group = assigned(assignment_logits)
    loss = gate_loss(log_probs, assigned_prob, assigned_group)
    negative = negative_mutual_information(log_probs)
    objective = loss + levels.mutual_information * negative if levels.mutual_information else loss
    gradient = dict(zip(leaves, torch.autograd.grad(objective, list(leaves.values())), strict=True))
    new, new_buffers = sgd_step(start, gradient, buffers or _zeros(start), levels.gate)
    stepped = _leaves(new)
    with BatchStatistics(update=False):
        train_output = functional_call(gate, stepped, (train[0],)).softmax(1)
        validation_output = functional_call(gate, stepped, (validation[0],)).softmax(1)
    return GateStep(
        loss.detach(),
        -negative.detach(),
        start,
        gradient,
        stepped,
        new_buffers,
        assigned_group,
        train_output,
        validation_output,
    )


def stage_two(
    experts: Experts,
    train: Samples,
    probs: Tensor,
    own: list[Tensor],
    levels: Levels,
    buffers: Mapping[int, Tensors],
) -> ExpertSteps:
    """Return S' = S - eta_S grad_S L2(S; T', A) (Eq. 12) of every expert with samples.

    Args:
        experts: K modules.
        train: B.
        probs: f(x; T') on B, (batch, K), detached.
        own: the rows of B routed to each expert.
        levels: how each level is taken.
        buffers: momentum of S by expert, zeros where missing.
    """
    nothing = probs.new_zeros(())
    result = ExpertSteps(own, {}, {}, {}, nothing, nothing, nothing)
    loss, adaptation = result.loss, result.adaptation
    statistics = BatchStatistics(update=True)
    for index, rows in experts.at_work(own):
        weights, architecture = experts.weights(index), experts.architecture(index)
        leaves = _leaves(weights)
        share, distance = second_level(experts, index, rows, train, leaves, architecture, probs, levels, statistics)
        found = torch.autograd.grad(share, list(leaves.values()), allow_unused=True, materialize_grads=True)
        gradient = dict(zip(leaves, found, strict=True))
        known = buffers.get(index) or _zeros(weights)
        result.gradients[index] = gradient
        result.stepped[index], result.buffers[index] = sgd_step(weights, gradient, known, levels.experts)
        loss, adaptation = loss + share.detach(), adaptation + distance.detach()
    norms = [norm(gradient) for gradient in result.gradients.values()]
    together = torch.stack(norms).norm() if norms else nothing
    return result._replace(loss=loss, adaptation=adaptation, gradient_norm=together)


def stage_three(
    experts: Experts,
    stepped: Mapping[int, Tensors],
    validation: Samples,
    output: Tensor,
    own: list[Tensor],
    levels: Levels,
) -> Validation:
    """Return L3 (Eq. 9) at (S', A, T') with q = dL3/dS', a = dL3/dA and dL3/df on V.

    Args:
        experts: K modules.
        stepped: S' by expert; S where an expert had no sample.
        validation: V.
        output: f(x; T') on V, (batch, K), detached.
        own: the rows of V routed to each expert.
        levels: how each level is taken.

    Raises:
        LbgnasError: if an architecture parameter of an expert that saw samples gets no gradient.
    """
    x, labels, _ = validation
    probs = output.detach().requires_grad_()
    confidence, _ = route(output)
    loss, outputs = probs.new_zeros(()), torch.zeros_like(probs)
    correct = torch.zeros((), dtype=torch.long, device=x.device)
    result = Validation(loss, correct, confidence.mean(), own, {}, {}, outputs)
    statistics = BatchStatistics(update=False)
    for index, rows in experts.at_work(own):
        leaves = _leaves(stepped.get(index) or experts.weights(index))
        architecture = _leaves(experts.architecture(index))
        logits, _ = experts.call(index, leaves, architecture, x[rows], statistics)
        share = validation_loss(logits, labels[rows], probs[rows, index], len(labels))
        wanted = [*architecture.values(), *leaves.values(), probs]
        found = torch.autograd.grad(share, wanted, allow_unused=True)
        result.architecture[index] = architecture_slopes(index, architecture, found, levels.architecture)
        result.weights[index] = _filled(leaves, found[len(architecture) : -1])
        outputs = outputs + found[-1]
        loss = loss + share.detach()
        correct = correct + (logits.detach().argmax(1) == labels[rows]).sum()
    return result._replace(loss=loss, correct=correct, outputs=outputs)


def stage_three_mixture(
    experts: Experts,
    stepped: Mapping[int, Tensors],
    validation: Samples,
    output: Tensor,
    own: list[Tensor],
    levels: Levels,
) -> Validation:
    """Return stage III for L3 = mean_V -log sum_k f_k(x_i; T) p_k(y_i | x_i), every sample through every expert.

    Unlike Eq. 9 it compares the experts: dL3/df_k is the larger the worse expert k does on the sample beside the
    others. Arguments, result and errors are those of `stage_three`.
    """
    x, labels, _ = validation
    probs = output.detach().requires_grad_()
    confidence, group = route(output)
    statistics = BatchStatistics(update=False)
    indices = [index for index in range(len(experts)) if experts.ranks.owns(index)]
    leaves = {index: _leaves(stepped.get(index) or experts.weights(index)) for index in indices}
    architecture = {index: _leaves(experts.architecture(index)) for index in indices}
    here = {index: experts.call(index, leaves[index], architecture[index], x, statistics)[0] for index in indices}
    logits = _everyones(experts, here)
    loss = mixture_loss(logits, labels, probs)
    parts = (*architecture.values(), *leaves.values())
    found = torch.autograd.grad(loss, [*(value for each in parts for value in each.values()), probs], allow_unused=True)
    gradients = iter(found)
    architecture_found = {index: [next(gradients) for _ in each] for index, each in architecture.items()}
    weights_found = {index: [next(gradients) for _ in each] for index, each in leaves.items()}
    answers = torch.stack([value.detach().argmax(1) for value in logits], 1)
    once = experts.ranks.once
    return Validation(
        once(loss.detach()),
        once((answers.gather(1, group[:, None])[:, 0] == labels).sum()),
        confidence.mean(),
        own,
        {
            index: architecture_slopes(index, each, architecture_found[index], levels.architecture)
            for index, each in architecture.items()
        },
        {index: _filled(each, weights_found[index]) for index, each in leaves.items()},
        once(found[-1]),
    )


def _everyones(experts: Experts, own: Mapping[int, Tensor]) -> list[Tensor]:
    """Return the logits of all experts, those of other processes as constants."""
    if experts.ranks.count == 1:
        return list(own.values())
    nothing = torch.zeros_like(next(iter(own.values())))
    parts = [own.get(index, nothing).detach() for index in range(len(experts))]
    (whole,) = experts.ranks.sum([torch.stack(parts)])
    return [own.get(index, answer) for index, answer in enumerate(whole)]


def through_experts(
    experts: Experts, train: Samples, probs: Tensor, second: ExpertSteps, third: Validation, levels: Levels
) -> tuple[dict[int, Tensors], Tensor]:
    """Return dL3/dA, the part through S' included (Eq. 17 to 19), and dL3/df on B, (batch, K), through S' (Eq. 14, 16).

    Args:
        experts: K modules.
        train: B.
        probs: f(x; T') on B, (batch, K), detached.
        second: stage II.
        third: stage III.
        levels: how each level is taken.
    """
    probs = probs.detach().requires_grad_()
    train_gradient = torch.zeros_like(probs)
    architecture_gradients = dict(third.architecture)
    for index in sorted(second.stepped.keys() & third.weights.keys()):
        direction = through_step(third.weights[index], second.gradients[index], levels.experts)
        architecture = experts.architecture(index)
        if levels.architecture:
            architecture = _leaves(architecture)

        def loss_of(
            weights: Tensors, composed: bool, index: int = index, architecture: Tensors = architecture
        ) -> Tensor:
            statistics = BatchStatistics(update=False, composed=composed)
            own = second.own[index]
            return second_level(experts, index, own, train, weights, architecture, probs, levels, statistics)[0]

        wanted = [*(architecture.values() if levels.architecture else ()), probs]
        mixed = levels.hypergradient.mixed(loss_of, experts.weights(index), direction, wanted)
        if mixed is None:
            continue
        train_gradient = train_gradient - mixed[-1]
        if levels.architecture:
            direct = third.architecture[index]
            architecture_gradients[index] = {
                name: direct[name] - term for name, term in zip(direct, mixed, strict=False)
            }
    return architecture_gradients, train_gradient


def through_gate(
    gate: nn.Module,
    assignment_logits: Tensor,
    images: Tensor,
    first: GateStep,
    train_gradient: Tensor,
    validation_gradient: Tensor,
    levels: Levels,
) -> Tensor:
    """Return dL3/dZ of the batch's rows, (batch, K), through T' (Eq. 13 to 15).

    Args:
        gate: images to logits, (batch, K).
        assignment_logits: the batch's rows of Z, (batch, K).
        images: of B.
        first: stage I.
        train_gradient: dL3/df on B, (batch, K).
        validation_gradient: dL3/df on V.
        levels: how each level is taken.
    """
    covector = torch.autograd.grad(
        [first.validation_output, first.train_output],
        list(first.stepped.values()),
        [validation_gradient, train_gradient],
    )
    direction = through_step(dict(zip(first.stepped, covector, strict=True)), first.gradient, levels.gate)

    def own_log_prob(weights: Tensors) -> Tensor:
        with BatchStatistics(update=False, composed=True):
            return _log_probs(gate, weights, images).gather(1, first.assigned_group[:, None])[:, 0]

    slope = levels.hypergradient.directional(own_log_prob, first.start, direction) / len(images)
    return assignment_gradient(assignment_logits, slope)
