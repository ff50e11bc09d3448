"""A cell that keeps its inputs alone for the backward and computes the rest a second time.

Torch's own checkpointing knows neither of the parameters that `functional_call` has lent a module, nor of the tangents
of a forward-mode pass whose backward comes after it. So parameters and tangents are inputs here like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.autograd.function import Function
from torch.func import functional_call

from lbgnas.batch_statistics import BatchStatistics, statistics_composed, statistics_rows
from lbgnas.tangents import joined, taken_apart

Run = Callable[[Sequence[Tensor]], Tensor]


class _Pass(NamedTuple):
    """What computes the output, which of its inputs have tangents, how normalisations are taken, and the draws."""

    run: Run
    moving: list[int]
    rows: int | None
    composed: bool
    draws: tuple[Tensor, Tensor | None]


class _Recomputed(Function):
    @staticmethod
    def forward(ctx: Any, given: _Pass, outputs: tuple[Tensor, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.given = given
        ctx.save_for_backward(*tensors)
        return outputs

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        given, again = ctx.given, torch.is_grad_enabled()
        needed = ctx.needs_input_grad[2:]
        if again:  # views: one input may depend on another, and is to count for itself alone
            tensors = [x.view_as(x) for x in ctx.saved_tensors]
        else:
            tensors = [x.detach().requires_grad_(wants) for x, wants in zip(ctx.saved_tensors, needed, strict=True)]
        policy = BatchStatistics(update=False, composed=given.composed, rows=given.rows)
        device = tensors[0].device
        with torch.enable_grad(), policy, torch.random.fork_rng([device] if device.type == "cuda" else []):
            _set_random_state(device, given.draws)
            outputs = _outputs(given, tensors)
        wanted = [x for x, wants in zip(tensors, needed, strict=True) if wants]
        found = iter(torch.autograd.grad(outputs, wanted, slopes, create_graph=again, allow_unused=True))
        return None, None, *(next(found) if wants else None for wants in needed)


def _outputs(given: _Pass, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the output, and its tangent if any input has one: the last tensors are the inputs' tangents."""
    if not given.moving:
        return (given.run(tensors),)
    count = len(tensors) - len(given.moving)
    values = list(tensors[:count])
    with forward_ad.dual_level():
        for place, along in zip(given.moving, tensors[count:], strict=True):
            values[place] = joined(values[place], along)
        return _both(given.run(values))


def _both(output: Tensor) -> tuple[Tensor, Tensor]:
    value, along = taken_apart(output)
    return value, torch.zeros_like(value) if along is None else along


def recomputed(cell: nn.Module, *tensors: Tensor | None, **options: Any) -> Tensor:
    """Return cell(*tensors, **options), of which the backward keeps the tensors and parameters alone.

    The second pass draws the same random numbers, takes the same batch statistics and moves no running ones.

    Args:
        cell: any module with one output.
        tensors: its inputs; None is passed on.
        options: what else it takes, no tensors.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> recomputed(layer, torch.ones(1, 2)).shape
        torch.Size([1, 3])
    """
    named = dict(cell.named_parameters())
    present = [place for place, value in enumerate(tensors) if value is not None]

    def run(values: Sequence[Tensor]) -> Tensor:
        arguments: list[Tensor | None] = [None] * len(tensors)
        for place, value in zip(present, values, strict=False):
            arguments[place] = value
        lent = dict(zip(named, values[len(present) :], strict=True))
        output: Tensor = functional_call(cell, lent, tuple(arguments), options)
        return output

    inputs = [x for x in (*tensors, *named.values()) if x is not None]
    draws = _random_state(inputs[0].device)
    with torch.no_grad():
        output = run(inputs)
    pairs = [taken_apart(x) for x in inputs]
    moving = [place for place, pair in enumerate(pairs) if pair.along is not None]
    along = [pair.along for pair in pairs if pair.along is not None]
    rows = statistics_rows(len(inputs[0]))
    given = _Pass(run, moving, None if rows == len(inputs[0]) else rows, statistics_composed(), draws)
    outputs = _Recomputed.apply(given, _both(output) if moving else (output,), *(pair.value for pair in pairs), *along)
    return joined(*outputs) if moving else outputs[0]


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
