"""One iteration of Algorithm 1 as a function: the stepped gate and experts, and the hypergradients of C and every A_k.

With T the gate, S the experts' weights and A their architectures:

    T' = T - eta_T grad_T L1(T; Z)                        Eq. 11
    S' = S - eta_S grad_S L2(S; T', A)                    Eq. 12
    dL3/dA, dL3/dZ at (S', A, T') through both steps      Eq. 13 to 19

Four forward and backward passes: T and S are committed as they are, without a second pass over the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lbgnas.batch_statistics import BatchStatistics
from lbgnas.errors import LbgnasError
from lbgnas.grouping.adaptation import Adaptation
from lbgnas.grouping.assignments import assigned, assignment_gradient
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.hypergradient import Exact, Hypergradient
from lbgnas.grouping.objectives import (
    expert_loss,
    gate_loss,
    negative_mutual_information,
    route,
    validation_loss,
)
from lbgnas.grouping.sgd import Sgd, Tensors, norm, sgd_step, through_step

Samples = tuple[Tensor, Tensor, Tensor]
"""Images (batch, ...), labels (batch,) and sample ids (batch,); ids are unique in a batch."""


@dataclass(frozen=True)
class Levels:
    """How each level of one iteration is taken.

    Attributes:
        gate: eta_T and the gate's other SGD settings.
        experts: eta_S and the experts' other SGD settings; the clip is per expert.
        hypergradient: how second-order terms are taken.
        adaptation: lambda and M_k of DALBG, or None.
        mutual_information: weight of the negative mutual information beside L1; 0 leaves it out.
        architecture: whether A is learned in this iteration.
        assignments: whether Z is learned in this iteration.
    """

    gate: Sgd
    experts: Sgd
    hypergradient: Hypergradient = field(default_factory=Exact)
    adaptation: Adaptation | None = None
    mutual_information: float = 0.0
    architecture: bool = True
    assignments: bool = True


@dataclass(frozen=True)
class Losses:
    """What one iteration saw, as tensors that no host has waited for.

    Attributes:
        gate, experts, validation: L1, L2 (adaptation included), L3; L3 is None where nothing was learned from it.
        mutual_information: of the gate on the training batch, nats; None without a gate.
        adaptation: lambda sum_k M_k.
        gradient_norm: |grad_S L2| over all experts, before any clip.
        correct: right answers on the validation batch.
        confidence: mean E_i on the validation batch.
        train_groups, validation_groups: samples routed to each expert, host integers.
    """

    gate: Tensor | None
    experts: Tensor
    validation: Tensor | None
    mutual_information: Tensor | None
    adaptation: Tensor
    gradient_norm: Tensor
    correct: Tensor | None
    confidence: Tensor | None
    train_groups: list[int]
    validation_groups: list[int]


@dataclass(frozen=True)
class Unrolled:
    """The result of one iteration, nothing committed: T', S' with their momentum buffers, and the hypergradients.

    Attributes:
        assignment_gradient: dL3/dZ of the batch's rows, (batch, groups), or None.
        architecture_gradients: dL3/dA_k by expert and name; experts without a validation sample are left out.
    """

    gate: Tensors
    gate_buffers: Tensors
    experts: Mapping[int, Tensors]
    expert_buffers: Mapping[int, Tensors]
    assignment_gradient: Tensor | None
    architecture_gradients: Mapping[int, Tensors]
    losses: Losses


def groups_of(group: Tensor, count: int) -> list[Tensor]:
    """Return the row indices of each group, in the order of the batch, by one stable sort and one look at counts."""
    order = group.argsort(stable=True)
    return list(order.split(torch.bincount(group, minlength=count).tolist()))


def _leaves(tensors: Tensors) -> Tensors:
    return {name: value.detach().requires_grad_() for name, value in tensors.items()}


def second_level(
    experts: Experts,
    index: int,
    own: Tensor,
    samples: Samples,
    weights: Tensors,
    architecture: Tensors,
    probs: Tensor,
    adaptation: Adaptation | None,
    statistics: BatchStatistics,
) -> tuple[Tensor, Tensor]:
    """Return expert k's share of L2 and, inside it, lambda M_k (Eq. 3, 7, 8).

    With adaptation, the samples of other groups pass the expert too, normalised by the statistics of its own: so the
    classification term is the same for every lambda.
    """
    x, labels, _ = samples
    batch = len(labels)
    confidence = probs[own, index]
    if adaptation is None or adaptation.weight == 0:
        logits, _ = experts.call(index, weights, architecture, x[own], statistics)
        return expert_loss(logits, labels[own], confidence, batch), confidence.new_zeros(())
    rest = torch.ones(batch, dtype=torch.bool, device=x.device)
    rest[own] = False
    rows = torch.cat([own, rest.nonzero()[:, 0]])
    policy = BatchStatistics(update=statistics.update, composed=statistics.composed, rows=len(own))
    logits, features = experts.call(index, weights, architecture, x[rows], policy, want_features=True)
    distance = adaptation.weight * adaptation.distance(features, probs[rows, index], labels[rows])
    return expert_loss(logits[: len(own)], labels[own], confidence, batch) + distance, distance


def unrolled_step(
    experts: Experts,
    gate: nn.Module | None,
    assignment_logits: Tensor | None,
    train: Samples,
    validation: Samples,
    levels: Levels,
    gate_buffers: Tensors | None = None,
    expert_buffers: Mapping[int, Tensors] | None = None,
) -> Unrolled:
    """Take one iteration of Algorithm 1 without committing it; only running statistics move.

    Args:
        experts: K modules.
        gate: images to logits (batch, K), or None for K = 1.
        assignment_logits: the batch's rows of Z, (batch, K); None without a gate.
        train: B.
        validation: V.
        levels: how each level is taken.
        gate_buffers: momentum of T, zeros if None.
        expert_buffers: momentum of S by expert, zeros where missing.

    Raises:
        LbgnasError: if an architecture parameter of an expert that saw samples gets no gradient.
    """
    x, labels, _ = train
    count = len(experts)
    stepped_gate: Tensors = {}
    new_gate_buffers: Tensors = {}
    loss_gate = information = None
    frozen = BatchStatistics(update=False)

    # Stage I
    if gate is not None:
        if assignment_logits is None:
            raise LbgnasError("a gate needs the assignment logits of its batch")
        old_gate = {name: value.detach() for name, value in gate.named_parameters()}
        leaves = _leaves(old_gate)
        with BatchStatistics(update=True):
            log_probs = functional_call(gate, leaves, (x,)).log_softmax(1)
        assigned_prob, assigned_group = assigned(assignment_logits)
        loss_gate = gate_loss(log_probs, assigned_prob, assigned_group)
        negative = negative_mutual_information(log_probs)
        information = -negative.detach()
        objective = loss_gate + levels.mutual_information * negative if levels.mutual_information else loss_gate
        gate_gradient = dict(zip(leaves, torch.autograd.grad(objective, list(leaves.values())), strict=True))
        buffers = gate_buffers or {name: torch.zeros_like(value) for name, value in old_gate.items()}
        stepped_gate, new_gate_buffers = sgd_step(old_gate, gate_gradient, buffers, levels.gate)
        gate_leaves = _leaves(stepped_gate)
        with frozen:
            train_output = functional_call(gate, gate_leaves, (x,)).softmax(1)
            validation_output = functional_call(gate, gate_leaves, (validation[0],)).softmax(1)
    else:
        train_output = torch.ones(len(x), 1, device=x.device, dtype=x.dtype)
        validation_output = torch.ones(len(validation[0]), 1, device=x.device, dtype=x.dtype)
    probs = train_output.detach().requires_grad_()
    validation_probs = validation_output.detach().requires_grad_()

    # Stage II
    own = groups_of(route(probs.detach())[1], count)
    new_experts: dict[int, Tensors] = {}
    new_buffers: dict[int, Tensors] = {}
    gradients: dict[int, Tensors] = {}
    loss_experts = loss_adaptation = probs.new_zeros(())
    for index, rows in enumerate(own):
        if not len(rows):
            continue
        weights = experts.weights(index)
        leaves = _leaves(weights)
        loss, distance = second_level(
            experts,
            index,
            rows,
            train,
            leaves,
            experts.architecture(index),
            probs.detach(),
            levels.adaptation,
            BatchStatistics(update=True),
        )
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        gradients[index] = dict(zip(leaves, found, strict=True))
        known = (expert_buffers or {}).get(index) or {n: torch.zeros_like(v) for n, v in weights.items()}
        new_experts[index], new_buffers[index] = sgd_step(weights, gradients[index], known, levels.experts)
        loss_experts = loss_experts + loss.detach()
        loss_adaptation = loss_adaptation + distance.detach()

    losses_so_far = dict(
        gate=None if loss_gate is None else loss_gate.detach(),
        experts=loss_experts,
        mutual_information=information,
        adaptation=loss_adaptation,
        gradient_norm=torch.stack([norm(own) for own in gradients.values()]).norm(),
        train_groups=[len(rows) for rows in own],
    )
    learn_assignments = levels.assignments and gate is not None
    if not levels.architecture and not learn_assignments:
        losses = Losses(**losses_so_far, validation=None, correct=None, confidence=None, validation_groups=[])  # type: ignore[arg-type]
        return Unrolled(stepped_gate, new_gate_buffers, new_experts, new_buffers, None, {}, losses)

    # Stage III: q = dL3/dS', a = dL3/dA, and dL3 with respect to the gate's outputs
    validation_x, validation_labels, _ = validation
    confidence, group = route(validation_output.detach())
    loss_validation = probs.new_zeros(())
    correct = torch.zeros((), dtype=torch.long, device=x.device)
    outputs_gradient = torch.zeros_like(validation_probs)
    covectors: dict[int, Tensors] = {}
    architecture_gradients: dict[int, Tensors] = {}
    validation_own = groups_of(group, count)
    for index, rows in enumerate(validation_own):
        if not len(rows):
            continue
        leaves = _leaves(new_experts.get(index) or experts.weights(index))
        architecture = _leaves(experts.architecture(index))
        logits, _ = experts.call(index, leaves, architecture, validation_x[rows], frozen)
        own_confidence = validation_probs[rows, index]
        loss = validation_loss(logits, validation_labels[rows], own_confidence, len(validation_labels))
        wanted = {
            **{f"A.{n}": v for n, v in architecture.items()},
            **{f"S.{n}": v for n, v in leaves.items()},
        }
        found = torch.autograd.grad(loss, [*wanted.values(), validation_probs], allow_unused=True)
        for name, value in zip(architecture, found, strict=False):
            if value is None and levels.architecture:
                raise LbgnasError(f"experts[{index}].{name} got no gradient from the validation loss")
        given = [torch.zeros_like(v) if g is None else g for v, g in zip(wanted.values(), found[:-1], strict=True)]
        architecture_gradients[index] = dict(zip(architecture, given, strict=False))
        covectors[index] = dict(zip(leaves, given[len(architecture) :], strict=True))
        outputs_gradient = outputs_gradient + found[-1]
        loss_validation = loss_validation + loss.detach()
        correct = correct + (logits.detach().argmax(1) == validation_labels[rows]).sum()

    # Through S': what A and the gate's outputs on B change in the experts' step
    train_gradient = torch.zeros_like(probs)
    for index in new_experts.keys() & covectors.keys():
        direction = through_step(covectors[index], gradients[index], levels.experts)
        architecture = _leaves(experts.architecture(index)) if levels.architecture else experts.architecture(index)

        def loss_of(
            weights: Tensors, composed: bool, index: int = index, architecture: Tensors = architecture
        ) -> Tensor:
            statistics = BatchStatistics(update=False, composed=composed)
            return second_level(
                experts, index, own[index], train, weights, architecture, probs, levels.adaptation, statistics
            )[0]

        wanted_tensors = [*(architecture.values() if levels.architecture else []), probs]
        mixed = levels.hypergradient.mixed(loss_of, experts.weights(index), direction, wanted_tensors)
        if mixed is None:
            continue
        train_gradient = train_gradient - mixed[-1]
        if levels.architecture:
            for name, term in zip(architecture, mixed, strict=False):
                architecture_gradients[index][name] = architecture_gradients[index][name] - term

    # Through T': what Z changes in the gate's step
    gradient_of_rows = None
    if learn_assignments:
        assert gate is not None and assignment_logits is not None
        covector = torch.autograd.grad(
            [validation_output, train_output], list(gate_leaves.values()), [outputs_gradient, train_gradient]
        )
        direction = through_step(dict(zip(gate_leaves, covector, strict=True)), gate_gradient, levels.gate)

        def own_log_prob(weights: Tensors) -> Tensor:
            with BatchStatistics(update=False, composed=True):
                output = functional_call(gate, weights, (x,)).log_softmax(1)
            return output.gather(1, assigned_group[:, None])[:, 0]

        slope = levels.hypergradient.directional(own_log_prob, old_gate, direction) / len(x)
        gradient_of_rows = assignment_gradient(assignment_logits, slope)

    losses = Losses(
        **losses_so_far,  # type: ignore[arg-type]
        validation=loss_validation,
        correct=correct,
        confidence=confidence.mean(),
        validation_groups=[len(rows) for rows in validation_own],
    )
    return Unrolled(
        stepped_gate,
        new_gate_buffers,
        new_experts,
        new_buffers,
        gradient_of_rows,
        architecture_gradients if levels.architecture else {},
        losses,
    )
