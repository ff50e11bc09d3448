"""The state of a grouped search and how one iteration is committed to it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lbgnas.errors import LbgnasError
from lbgnas.grouping.assignments import RowOptimizer, RowState, initial_row_state, move_rows
from lbgnas.grouping.balance import class_weights, initial_counts, moved_counts
from lbgnas.grouping.bilevel import bilevel_gradients
from lbgnas.grouping.checks import (
    NonFinite,
    VanishedHypergradient,
    check_ids,
    check_samples,
    check_step,
    finite,
    require,
    sloping,
)
from lbgnas.grouping.cost import with_cost
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.sgd import Tensors, norm
from lbgnas.grouping.state import check_state
from lbgnas.grouping.unrolled import Levels, Losses, Samples, Unrolled, unrolled_step

__all__ = ["Learner", "NonFinite", "VanishedHypergradient"]


class Learner:
    """Gate T, assignment logits Z, K experts with weights S and architectures A, and their optimisers.

    Args:
        experts: K modules; of several processes each moves its own, until `gathered_state` brings them together.
        gate: images to logits (batch, K); None for one expert alone.
        assignment_logits: Z, (samples, K); None without a gate.
        rows: how rows of Z move.
        balance_classes: number of classes to balance inside each group in level 2; 0 for no balance.
        architecture_rate, architecture_decay: Adam's rate and (coupled) weight decay for A; betas are (0.5, 0.999).
        architecture_clip: largest norm of one expert's gradient of A; None for any.

    Example:
        >>> from lbgnas.grouping.sgd import Sgd
        >>> experts = Experts([nn.Sequential(nn.Flatten(), nn.Linear(4, 2)) for _ in range(2)])
        >>> gate = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> learner = Learner(experts, gate, torch.randn(6, 2))
        >>> batch = (torch.randn(6, 1, 2, 2), torch.tensor([0, 1] * 3), torch.arange(6))
        >>> levels = Levels(gate=Sgd(0.1), experts=Sgd(0.1))
        >>> sum(learner.step(batch, batch, levels).train_groups)
        6
    """

    def __init__(
        self,
        experts: Experts,
        gate: nn.Module | None,
        assignment_logits: Tensor | None,
        rows: RowOptimizer | None = None,
        architecture_rate: float = 3e-4,
        architecture_decay: float = 1e-3,
        architecture_clip: float | None = None,
        balance_classes: int = 0,
    ) -> None:
        if (gate is None) != (assignment_logits is None):
            raise LbgnasError("a gate and assignment logits go together: give both or neither")
        if gate is None and len(experts) != 1:
            raise LbgnasError(f"{len(experts)} experts need a gate and assignment logits; without them give 1 expert")
        if assignment_logits is not None and assignment_logits.shape[1:] != (len(experts),):
            shape = tuple(assignment_logits.shape)
            raise LbgnasError(f"assignment logits are {shape}, (samples, {len(experts)}) is needed")
        self.experts = experts
        self.gate = gate
        self.assignment_logits = assignment_logits
        self.rows = rows or RowOptimizer()
        self.architecture_settings = (architecture_rate, architecture_decay, architecture_clip)
        self.row_state = None if assignment_logits is None else initial_row_state(assignment_logits)
        self.class_counts = initial_counts(len(experts), balance_classes) if balance_classes else None
        self.gate_buffers: Tensors | None = None
        self.expert_buffers: dict[int, Tensors] = {}
        self.architecture = [
            {name: dict(module.named_parameters())[name] for name in experts.names} for module in experts.modules
        ]
        self._alphas = [value for own in self.architecture for value in own.values()]
        self.architecture_optimizer = (
            torch.optim.Adam(self._alphas, architecture_rate, (0.5, 0.999), weight_decay=architecture_decay)
            if self._alphas
            else None
        )

    def with_experts(self, experts: Experts) -> Learner:
        """Return a learner of the same gate and C, their momentum included, with new experts and architectures."""
        new = Learner(experts, self.gate, self.assignment_logits, self.rows, *self.architecture_settings)
        new.row_state, new.gate_buffers, new.class_counts = self.row_state, self.gate_buffers, self.class_counts
        return new

    def step(self, train: Samples, validation: Samples, levels: Levels) -> Losses:
        """Take one iteration of Algorithm 1 and commit it: T, S, the batch's rows of Z, and A.

        Raises:
            LbgnasError: if a batch does not fit together.
            NonFinite: if a level gave NaN or infinity.
            VanishedHypergradient: if the hypergradient of Z or of an A_k is zero throughout, though the gate moves, is
                not saturated, and A_k has more than one candidate to choose from.

        After any of them everything is as before the step, running statistics included.
        """
        ids = train[2]
        logits = None
        if self.assignment_logits is not None:
            check_samples(train, "training")
            check_ids(ids, len(self.assignment_logits))
            logits = self.assignment_logits[ids]
        levels = self._balanced(levels, train[0])
        with self._undone_on_failure():
            with self.experts.ranks.agreed():
                result = unrolled_step(
                    self.experts, self.gate, logits, train, validation, levels, self.gate_buffers, self.expert_buffers
                )
                check_step(result, levels, logits)
            self._commit(result, train, levels)
        return result.losses

    def bilevel_step(self, train: Samples, validation: Samples, levels: Levels) -> Losses:
        """Take one step of the bases' own algorithm, for one expert without a gate: A first, then S.

        The order, the virtual step without clipping and the fresh gradient at the new A are those of DARTS
        (arXiv:1806.09055); one pass more than `step`. Adaptation is ignored: one expert has no rest.

        Raises:
            LbgnasError: if there is a gate or a batch does not fit together.
            NonFinite, VanishedHypergradient: as `step`, everything being as before then.
        """
        if self.gate is not None:
            raise LbgnasError("the bilevel step knows no gate; use step")
        levels = self._balanced(levels, train[0])
        weights_only = dataclasses.replace(levels, architecture=False, adaptation=None)
        validation_loss: Tensor | None = None
        correct: Tensor | None = None
        with self._undone_on_failure(architecture=levels.architecture):
            if levels.architecture and self._alphas:
                found, validation_loss, correct = bilevel_gradients(
                    self.experts, train, validation, levels, self.expert_buffers.get(0)
                )
                known = {"validation loss (level 3)": validation_loss, "hypergradient of A": norm(found)}
                require([*finite(known), *sloping({0: found})])
                self._move_architecture(with_cost({0: found}, self.experts, levels.cost))
            own = unrolled_step(self.experts, None, None, train, validation, weights_only, None, self.expert_buffers)
            check_step(own, weights_only)
            self._commit(own, train, levels)
        groups = [] if correct is None else [len(validation[1])]
        return dataclasses.replace(own.losses, validation=validation_loss, correct=correct, validation_groups=groups)

    @contextmanager
    def _undone_on_failure(self, architecture: bool = False) -> Iterator[None]:
        """Put back running statistics, and A with its optimiser if asked for, should the body raise anything."""
        modules = [*self.experts.modules, *([] if self.gate is None else [self.gate])]
        changing = [buffer for module in modules for buffer in module.buffers()]
        optimizer = self.architecture_optimizer if architecture else None
        moments = None if optimizer is None else copy.deepcopy(optimizer.state_dict())
        if optimizer is not None:
            changing += self._alphas
        kept = _copies(changing)
        done = False
        try:
            yield
            done = True
        finally:
            if not done:
                with torch.no_grad():
                    if changing:
                        torch._foreach_copy_(changing, kept)
                if optimizer is not None and moments is not None:
                    optimizer.load_state_dict(moments)

    def _balanced(self, levels: Levels, like: Tensor) -> Levels:
        """Return the levels with class weights from the steps before, if classes are to be balanced."""
        if self.class_counts is None:
            return levels
        return dataclasses.replace(levels, class_weights=class_weights(self.class_counts).to(like))

    def _commit(self, result: Unrolled, train: Samples, levels: Levels) -> None:
        if self.class_counts is not None:
            self.class_counts = moved_counts(self.class_counts.to(train[1].device), result.train_group, train[1])
        if self.gate is not None:
            named = dict(self.gate.named_parameters())
            with torch.no_grad():
                for name, value in result.gate.items():
                    named[name].copy_(value)
            self.gate_buffers = result.gate_buffers
        for index, weights in result.experts.items():
            self.experts.load(index, weights)
        self.expert_buffers = {**self.expert_buffers, **result.expert_buffers}
        if result.assignment_gradient is not None:
            assert self.assignment_logits is not None
            assert self.row_state is not None
            self.assignment_logits, self.row_state = move_rows(
                self.assignment_logits, train[2], result.assignment_gradient, self.rows, self.row_state
            )
        self._move_architecture(with_cost(result.architecture_gradients, self.experts, levels.cost))

    def _move_architecture(self, gradients: Mapping[int, Tensors]) -> None:
        if self.architecture_optimizer is None or not gradients:
            return
        *_, clip = self.architecture_settings
        for index, own in enumerate(self.architecture):
            for name, parameter in own.items():
                # Adam leaves a parameter without a gradient as it is: experts that saw no sample stay.
                parameter.grad = gradients[index][name] if index in gradients else None
            if clip is not None and index in gradients:
                torch.nn.utils.clip_grad_norm_(own.values(), clip)
        self.architecture_optimizer.step()
        self.architecture_optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Return everything an iteration depends on, as tensors, numbers and text."""
        return {
            "experts": [module.state_dict() for module in self.experts.modules],
            "expert_buffers": self.expert_buffers,
            "gate": None if self.gate is None else self.gate.state_dict(),
            "gate_buffers": self.gate_buffers,
            "assignment_logits": self.assignment_logits,
            "row_state": None if self.row_state is None else list(self.row_state),
            "class_counts": self.class_counts,
            "architecture_optimizer": None
            if self.architecture_optimizer is None
            else self.architecture_optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; shapes must be those of this learner.

        Raises:
            LbgnasError: names the first part that does not fit; nothing is taken over then.
        """
        weights = [self.experts.weights(index) for index in range(len(self.experts))]
        check_state(
            self.state_dict(),
            state,
            weights,
            None if self.gate is None else dict(self.gate.named_parameters()),
            self._alphas,
        )
        for module, own in zip(self.experts.modules, state["experts"], strict=True):
            module.load_state_dict(own)
        if self.gate is not None:
            self.gate.load_state_dict(state["gate"])
        if self.architecture_optimizer is not None:
            self.architecture_optimizer.load_state_dict(state["architecture_optimizer"])
        self.expert_buffers = dict(state["expert_buffers"])
        self.gate_buffers = state["gate_buffers"]
        self.assignment_logits = state["assignment_logits"]
        self.row_state = None if state["row_state"] is None else RowState(*state["row_state"])
        self.class_counts = state["class_counts"]


@torch.no_grad()
def _copies(tensors: list[Tensor]) -> list[Tensor]:
    copies = [torch.empty_like(tensor) for tensor in tensors]
    if copies:
        torch._foreach_copy_(copies, tensors)
    return copies
