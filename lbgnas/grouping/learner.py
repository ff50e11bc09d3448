"""The state of a grouped search and how one iteration is committed to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lbgnas.errors import LbgnasError
from lbgnas.grouping.assignments import RowOptimizer, RowState, initial_row_state, move_rows
from lbgnas.grouping.bilevel import bilevel_gradients
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.sgd import Tensors, norm
from lbgnas.grouping.unrolled import Levels, Losses, Samples, Unrolled, unrolled_step


class NonFinite(LbgnasError):
    """A level gave NaN or infinity; nothing of that iteration was committed."""


class VanishedHypergradient(LbgnasError):
    """A hypergradient is all zero although nothing is saturated; nothing of that iteration was committed."""


class Learner:
    """Gate T, assignment logits Z, K experts with weights S and architectures A, and their optimisers.

    Args:
        experts: K modules.
        gate: images to logits (batch, K); None for one expert alone.
        assignment_logits: Z, (samples, K); None without a gate.
        rows: how rows of Z move.
        architecture_rate, architecture_decay: Adam's rate and (coupled) weight decay for A; betas are (0.5, 0.999).

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
    ) -> None:
        if (gate is None) != (assignment_logits is None) or (gate is None and len(experts) != 1):
            raise LbgnasError("a gate, assignment logits and several experts go together")
        if assignment_logits is not None and assignment_logits.shape[1] != len(experts):
            raise LbgnasError(f"assignment logits have {assignment_logits.shape[1]} columns for {len(experts)} experts")
        self.experts = experts
        self.gate = gate
        self.assignment_logits = assignment_logits
        self.rows = rows or RowOptimizer()
        self.row_state = None if assignment_logits is None else initial_row_state(assignment_logits)
        self.gate_buffers: Tensors | None = None
        self.expert_buffers: dict[int, Tensors] = {}
        self.architecture = [
            {name: dict(module.named_parameters())[name] for name in experts.names} for module in experts.modules
        ]
        alphas = [value for own in self.architecture for value in own.values()]
        self.architecture_optimizer = (
            torch.optim.Adam(alphas, architecture_rate, (0.5, 0.999), weight_decay=architecture_decay)
            if alphas
            else None
        )

    def step(self, train: Samples, validation: Samples, levels: Levels) -> Losses:
        """Take one iteration of Algorithm 1 and commit it: T, S, the batch's rows of Z, and A.

        Raises:
            NonFinite: if a level gave NaN or infinity.
            VanishedHypergradient: if the hypergradient of Z or of an A_k is zero throughout.
        """
        ids = train[2]
        logits = None if self.assignment_logits is None else self.assignment_logits[ids]
        result = unrolled_step(
            self.experts, self.gate, logits, train, validation, levels, self.gate_buffers, self.expert_buffers
        )
        _check(result)
        self._commit(result, ids)
        return result.losses

    def bilevel_step(self, train: Samples, validation: Samples, levels: Levels) -> Losses:
        """Take one step of the bases' own algorithm, for one expert without a gate: A first, then S.

        The order, the virtual step without clipping and the fresh gradient at the new A are those of DARTS
        (arXiv:1806.09055); one pass more than `step`.
        """
        if self.gate is not None:
            raise LbgnasError("the bilevel step knows no gate; use step")
        if levels.architecture:
            found, validation_loss, correct = bilevel_gradients(
                self.experts, train, validation, levels, self.expert_buffers.get(0)
            )
            _require_finite({"validation loss (level 3)": validation_loss, "hypergradient of A": norm(found)})
            self._move_architecture({0: found})
        else:
            validation_loss = correct = None
        own = unrolled_step(
            self.experts, None, None, train, validation, Levels(levels.gate, levels.experts, architecture=False),
            None, self.expert_buffers,
        )  # fmt: skip
        _check(own)
        self._commit(own, train[2])
        seen = {**vars(own.losses), "validation": validation_loss, "correct": correct}
        seen["validation_groups"] = [len(validation[1])] if correct is not None else []
        return Losses(**seen)

    def _commit(self, result: Unrolled, ids: Tensor) -> None:
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
            assert self.assignment_logits is not None and self.row_state is not None
            self.assignment_logits, self.row_state = move_rows(
                self.assignment_logits, ids, result.assignment_gradient, self.rows, self.row_state
            )
        self._move_architecture(result.architecture_gradients)

    def _move_architecture(self, gradients: Mapping[int, Tensors]) -> None:
        if self.architecture_optimizer is None or not gradients:
            return
        for index, own in enumerate(self.architecture):
            for name, parameter in own.items():
                # Adam leaves a parameter without a gradient as it is: experts that saw no sample stay.
                parameter.grad = gradients[index][name] if index in gradients else None
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
            "architecture_optimizer": None
            if self.architecture_optimizer is None
            else self.architecture_optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; shapes must be those of this learner.

        Raises:
            LbgnasError: names the first part that does not fit.
        """
        try:
            for module, own in zip(self.experts.modules, state["experts"], strict=True):
                module.load_state_dict(own)
            if self.gate is not None:
                self.gate.load_state_dict(state["gate"])
            if self.architecture_optimizer is not None:
                self.architecture_optimizer.load_state_dict(state["architecture_optimizer"])
            if self.assignment_logits is not None and state["assignment_logits"].shape != self.assignment_logits.shape:
                raise LbgnasError("assignment_logits: another number of samples or experts")
            self.expert_buffers = dict(state["expert_buffers"])
            self.gate_buffers = state["gate_buffers"]
            self.assignment_logits = state["assignment_logits"]
            self.row_state = None if state["row_state"] is None else RowState(*state["row_state"])
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            raise LbgnasError(
                f"the saved state does not fit this search: {' '.join(str(error).split())[:200]}"
            ) from None


def _require_finite(values: Mapping[str, Tensor | None]) -> None:
    known = {name: value for name, value in values.items() if value is not None}
    if not known:
        return
    finite = torch.stack([value.detach().float() for value in known.values()]).isfinite().tolist()
    for name, fine in zip(known, finite, strict=True):
        if not fine:
            raise NonFinite(f"{name} is not finite; lower the learning rate or look at the data")


def _check(result: Unrolled) -> None:
    losses = result.losses
    hyper_c = result.assignment_gradient
    _require_finite(
        {
            "gate loss (level 1)": losses.gate,
            "gate step (level 1)": norm(result.gate) if result.gate else None,
            "experts' loss (level 2)": losses.experts,
            **{f"step of expert {index} (level 2)": norm(weights) for index, weights in result.experts.items()},
            "validation loss (level 3)": losses.validation,
            "hypergradient of C": None if hyper_c is None else hyper_c.norm(),
            **{f"hypergradient of A_{index}": norm(own) for index, own in result.architecture_gradients.items() if own},
        }
    )
    # A gate whose every answer is exactly 1 has no slope: that zero is true, all others are faults.
    if hyper_c is not None and hyper_c.shape[1] > 1 and losses.confidence is not None:
        if bool((hyper_c == 0).all() & (losses.confidence < 1)):
            raise VanishedHypergradient("the hypergradient of C is zero throughout: the gate does not depend on it")
    for index, own in result.architecture_gradients.items():
        for name, value in own.items():
            if not bool(value.any()):
                raise VanishedHypergradient(f"the hypergradient of experts[{index}].{name} is zero throughout")
