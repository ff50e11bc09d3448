"""The learnable grouping C of the training samples: logits Z, one row for each sample id (Eq. 1's C and G)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def assigned(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return (assigned_prob, assigned_group): G_n, the largest entry of C's row n, and j_n, its column.

    C = row softmax of `logits`, (batch, groups); both results are (batch,).

    Example:
        >>> prob, group = assigned(torch.tensor([[0.0, 0.0, 1.0]]))
        >>> round(prob.item(), 4), group.item()
        (0.5761, 2)
    """
    prob, group = logits.softmax(1).max(1)
    return prob, group


def assignment_gradient(logits: Tensor, prob_gradient: Tensor) -> Tensor:
    """Return dL/dZ from dL/dG: dG_n/dZ_nk = G_n (1[k = j_n] - C_nk).

    Args:
        logits: the batch's rows of Z, (batch, groups).
        prob_gradient: dL/dG_n, (batch,).
    """
    matrix = logits.softmax(1)
    prob, group = matrix.max(1)
    one_hot = torch.zeros_like(matrix).scatter_(1, group[:, None], 1.0)
    return (prob_gradient * prob)[:, None] * (one_hot - matrix)


def initial_assignments(samples: int, groups: int, seed: int, scale: float = 1e-3) -> Tensor:
    """Return random logits Z, `scale` times standard normal, (samples, groups)."""
    return scale * torch.randn(samples, groups, generator=torch.Generator().manual_seed(seed))


class RowOptimizer(NamedTuple):
    """How rows of Z move; rows that are not in the batch stay as they are.

    kind "sgd": Z <- Z - rate * gradient (the paper's step). kind "adam": each row normalised by its own history, with
    its own count of steps; a row is touched once an epoch by a gradient whose size depends on every other rate.
    """

    kind: str = "adam"
    rate: float = 0.1
    betas: tuple[float, float] = (0.5, 0.9)


class RowState(NamedTuple):
    """Moments of every row of Z (samples, groups) and how often each row was moved (samples,)."""

    first: Tensor
    second: Tensor
    moves: Tensor


def initial_row_state(logits: Tensor) -> RowState:
    """Return the state of rows that were never moved."""
    return RowState(torch.zeros_like(logits), torch.zeros_like(logits), logits.new_zeros(len(logits)))


def move_rows(
    logits: Tensor, ids: Tensor, gradient: Tensor, optimizer: RowOptimizer, state: RowState
) -> tuple[Tensor, RowState]:
    """Return Z with the rows `ids` (each at most once) moved against `gradient`, and the new state."""
    if optimizer.kind == "sgd":
        return logits.index_add(0, ids, gradient, alpha=-optimizer.rate), state
    low, high = optimizer.betas
    first = low * state.first[ids] + (1 - low) * gradient
    second = high * state.second[ids] + (1 - high) * gradient * gradient
    moves = state.moves[ids] + 1
    corrected = first / (1 - low**moves)[:, None]
    size = (second / (1 - high**moves)[:, None]).sqrt()
    # Adam's epsilon, far below its usual 1e-8: small gradients move a row as far as large ones, zeros leave it, and
    # where squares underflow the step shrinks.
    step = corrected / (size + max(1e-12, torch.finfo(logits.dtype).tiny))
    moved = logits.index_add(0, ids, step.to(logits.dtype), alpha=-optimizer.rate)
    return moved, RowState(
        state.first.index_copy(0, ids, first),
        state.second.index_copy(0, ids, second),
        state.moves.index_copy(0, ids, moves),
    )
