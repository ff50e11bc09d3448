"""Whether a saved state fits a search, found out before anything of the search is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lbgnas.errors import LbgnasError
from lbgnas.grouping.sgd import Tensors


def check_state(
    own: Mapping[str, Any],
    given: object,
    weights: Sequence[Tensors],
    gate_weights: Tensors | None,
    alphas: Sequence[Tensor],
) -> None:
    """Refuse a learner's saved state that does not fit its own.

    Args:
        own: the learner's `state_dict()`.
        given: the saved one.
        weights: S by expert, whose names and shapes the experts' momentum has.
        gate_weights: T, whose names and shapes the gate's momentum has; None without a gate.
        alphas: A of all experts in the order of their optimiser.

    Raises:
        LbgnasError: names the first part that does not fit.
    """
    if not isinstance(given, Mapping):
        raise _misfit("it is no mapping")
    for part in own:
        if part not in given:
            raise _misfit(f"{part} is missing")
    for part in ("gate", "assignment_logits", "row_state", "class_counts", "architecture_optimizer"):
        if (own[part] is None) != (given[part] is None):
            raise _misfit(f"{part} is {'of no use to' if own[part] is None else 'needed by'} this search")
    _check_list("experts", given["experts"], own["experts"])
    if own["gate"] is not None:
        _check_tensors("gate", given["gate"], own["gate"])
    if given["gate_buffers"] is not None:
        _check_tensors("gate_buffers", given["gate_buffers"], gate_weights or {})
    _check_expert_buffers(given["expert_buffers"], weights)
    if own["assignment_logits"] is not None:
        logits, saved = own["assignment_logits"], given["assignment_logits"]
        if isinstance(saved, Tensor) and saved.shape != logits.shape:
            sizes = f"{tuple(saved.shape)} instead of {tuple(logits.shape)}"
            raise _misfit(f"assignment_logits has another number of samples or experts, {sizes}")
        _check_tensors("state", {"assignment_logits": saved}, {"assignment_logits": logits})
        _check_list("row_state", given["row_state"], own["row_state"])
    if own["class_counts"] is not None:
        _check_tensors("state", {"class_counts": given["class_counts"]}, {"class_counts": own["class_counts"]})
    if own["architecture_optimizer"] is not None:
        _check_adam(given["architecture_optimizer"], alphas)


def _misfit(reason: str) -> LbgnasError:
    """Return the error for a part that does not fit."""
    return LbgnasError(f"the saved state does not fit this search: {reason}")


def _check_tensors(where: str, given: object, wanted: Mapping[Any, Any]) -> None:
    if not isinstance(given, Mapping):
        raise _misfit(f"{where} is no mapping of tensors")
    for name in wanted:
        if name not in given:
            raise _misfit(f"{where}.{name} is missing")
    for name, value in given.items():
        if name not in wanted:
            raise _misfit(f"{where}.{name} is unknown here")
        own = wanted[name]
        if not isinstance(own, Tensor):
            continue
        if not isinstance(value, Tensor):
            raise _misfit(f"{where}.{name} is no tensor")
        if value.shape != own.shape or value.dtype != own.dtype:
            found, needed = (f"{tuple(each.shape)} {each.dtype}" for each in (value, own))
            raise _misfit(f"{where}.{name} is {found} instead of {needed}")


def _check_list(where: str, given: object, wanted: Sequence[Any]) -> None:
    if not isinstance(given, (list, tuple)):
        raise _misfit(f"{where} is no list")
    if len(given) != len(wanted):
        word = "shorter" if len(given) < len(wanted) else "longer"
        raise _misfit(f"{where} is {word} than it should be, {len(given)} instead of {len(wanted)}")
    for index, (value, own) in enumerate(zip(given, wanted, strict=True)):
        if isinstance(own, Mapping):
            _check_tensors(f"{where}[{index}]", value, own)
        else:
            _check_tensors(where, {index: value}, {index: own})


def _check_expert_buffers(given: object, weights: Sequence[Tensors]) -> None:
    if not isinstance(given, Mapping):
        raise _misfit("expert_buffers is no mapping")
    for index, buffers in given.items():
        if type(index) is not int or not 0 <= index < len(weights):
            raise _misfit(f"expert_buffers[{index}] is of no expert here")
        _check_tensors(f"expert_buffers[{index}]", buffers, weights[index])


def _check_adam(given: object, alphas: Sequence[Tensor]) -> None:
    where = "architecture_optimizer"
    moments, groups = (given.get("state"), given.get("param_groups")) if isinstance(given, Mapping) else (None, None)
    if not isinstance(moments, Mapping) or not isinstance(groups, list):
        raise _misfit(f"{where} has no state and param_groups")
    needed = ("lr", "betas", "eps", "weight_decay", "params")
    if len(groups) != 1 or not isinstance(groups[0], Mapping) or not all(name in groups[0] for name in needed):
        raise _misfit(f"{where}.param_groups is not one group with {', '.join(needed)}")
    if groups[0]["params"] != list(range(len(alphas))):
        raise _misfit(f"{where} is of another number of parameters than {len(alphas)}")
    for index, own in moments.items():
        if type(index) is not int or not 0 <= index < len(alphas):
            raise _misfit(f"{where}.state[{index}] is of no parameter here")
        # A count of steps, of whatever type this torch counts in.
        wanted = {"step": None, "exp_avg": alphas[index], "exp_avg_sq": alphas[index]}
        _check_tensors(f"{where}.state[{index}]", own, wanted)
