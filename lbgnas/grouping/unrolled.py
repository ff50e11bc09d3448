"""One iteration of Algorithm 1 as a function: the stepped gate and experts, and the hypergradients of C and every A_k.

With T the gate, S the experts' weights and A their architectures:

    T' = T - eta_T grad_T L1(T; Z)                        Eq. 11          stage_one
    S' = S - eta_S grad_S L2(S; T', A)                    Eq. 12          stage_two
    dL3/dA, dL3/dZ at (S', A, T') through both steps      Eq. 13 to 19    stage_three, through_experts, through_gate

Four forward and backward passes: T and S are committed as they are, without a second pass over the batch.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from lbgnas.errors import LbgnasError
from lbgnas.grouping.checks import check_samples
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.levels import Levels, Losses, Samples, Unrolled
from lbgnas.grouping.objectives import route
from lbgnas.grouping.sgd import Tensors
from lbgnas.grouping.shared import shared
from lbgnas.grouping.stages import (
    ExpertSteps,
    GateStep,
    Validation,
    groups_of,
    stage_one,
    stage_three,
    stage_three_mixture,
    stage_two,
    through_experts,
    through_gate,
)

__all__ = ["Levels", "Losses", "Samples", "Unrolled", "unrolled_step"]


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
        experts: K modules. With several processes, each computes its own experts and the whole gate; what is returned
            of S_k and A_k is of its own.
        gate: images to logits (batch, K), or None for K = 1.
        assignment_logits: the batch's rows of Z, (batch, K); None without a gate.
        train: B.
        validation: V.
        levels: how each level is taken.
        gate_buffers: momentum of T, zeros if None.
        expert_buffers: momentum of S by expert, zeros where missing.

    Raises:
        LbgnasError: if a batch does not fit together, or an architecture parameter of an expert that saw samples gets
            no gradient.
    """
    check_samples(train, "training")
    check_samples(validation, "validation")
    first = None
    if gate is not None:
        if assignment_logits is None:
            raise LbgnasError("a gate needs the assignment logits of its batch")
        first = stage_one(gate, assignment_logits, train, validation, levels, gate_buffers)
    if first is None:
        output, validation_output = (samples[0].new_ones(len(samples[0]), 1) for samples in (train, validation))
    else:
        outputs = first.train_output.detach(), first.validation_output.detach()
        # Gates that differ in the last bit could send a sample to two processes, or to none.
        output, validation_output = experts.ranks.sum([experts.ranks.once(value) for value in outputs])
    own, validation_own = groups_of([route(output)[1], route(validation_output)[1]], len(experts))
    second = stage_two(experts, train, output, own, levels, expert_buffers or {})

    learn_assignments = levels.assignments and gate is not None
    third = on_train = rows_gradient = None
    architecture_gradients: dict[int, Tensors] = {}
    if levels.architecture or learn_assignments:
        stage = stage_three_mixture if levels.mixture and gate is not None else stage_three
        third = stage(experts, second.stepped, validation, validation_output, validation_own, levels)
        architecture_gradients, on_train = through_experts(experts, train, output, second, third, levels)
    second, third, on_train = shared(experts.ranks, second, third, on_train)
    if learn_assignments:
        assert gate is not None
        assert assignment_logits is not None
        assert first is not None
        assert third is not None
        assert on_train is not None
        rows_gradient = through_gate(gate, assignment_logits, train[0], first, on_train, third.outputs, levels)
    return Unrolled(
        gate={} if first is None else {name: value.detach() for name, value in first.stepped.items()},
        gate_buffers={} if first is None else first.buffers,
        experts=second.stepped,
        expert_buffers=second.buffers,
        assignment_gradient=rows_gradient,
        architecture_gradients=architecture_gradients if levels.architecture else {},
        train_group=output.argmax(1),
        losses=_losses(first, second, third),
    )


def _losses(first: GateStep | None, second: ExpertSteps, third: Validation | None) -> Losses:
    return Losses(
        gate=None if first is None else first.loss,
        experts=second.loss,
        validation=None if third is None else third.loss,
        mutual_information=None if first is None else first.mutual_information,
        adaptation=second.adaptation,
        gradient_norm=second.gradient_norm,
        correct=None if third is None else third.correct,
        confidence=None if third is None else third.confidence,
        train_groups=[len(rows) for rows in second.own],
        validation_groups=[] if third is None else [len(rows) for rows in third.own],
    )
