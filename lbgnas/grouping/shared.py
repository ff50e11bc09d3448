"""What crosses between processes when each has some of the experts: see `lbgnas.ranks`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lbgnas.grouping.stages import ExpertSteps, Validation
from lbgnas.ranks import Ranks


def shared(
    ranks: Ranks, second: ExpertSteps, third: Validation | None, on_train: Tensor | None
) -> tuple[ExpertSteps, Validation | None, Tensor | None]:
    """Return stages II and III with L2, L3, dL3/df on V and, third, dL3/df on B of all experts together.

    One exchange. Steps and gradients of S_k and A_k stay with the process that has expert k. Every entry of dL3/df
    comes from one expert, so its sum is exact.
    """
    if ranks.count == 1:
        return second, third, on_train
    values = [second.loss, second.adaptation, second.gradient_norm**2]
    if third is not None:
        values += [third.loss, third.correct, third.outputs]
    if on_train is not None:
        values.append(on_train)
    loss, adaptation, square, *rest = ranks.sum(values)
    second = second._replace(loss=loss, adaptation=adaptation, gradient_norm=square.sqrt())
    if third is not None:
        third = third._replace(loss=rest[0], correct=rest[1], outputs=rest[2])
    return second, third, None if on_train is None else rest[-1]


def gathered_state(ranks: Ranks, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a learner's `state_dict` in which each expert is as its own process has it, all else as the first has.

    Args:
        ranks: the processes.
        state: of this process, on the CPU.
    """
    count, optimizer = len(state["experts"]), state["architecture_optimizer"]
    parameters = 0 if optimizer is None else len(optimizer["param_groups"][0]["params"]) // count
    own = {
        "experts": {index: part for index, part in enumerate(state["experts"]) if ranks.owns(index)},
        "expert_buffers": {index: part for index, part in state["expert_buffers"].items() if ranks.owns(index)},
        "moments": {
            number: part
            for number, part in ({} if optimizer is None else optimizer["state"]).items()
            if ranks.owns(number // parameters)
        },
        "rest": {name: part for name, part in state.items() if name not in ("experts", "expert_buffers")}
        if ranks.first
        else {},
    }
    parts = ranks.gathered(own)

    def together(name: str) -> dict[int, Any]:
        return {index: part for each in parts for index, part in each[name].items()}

    whole: dict[str, Any] = dict(parts[0]["rest"])
    experts = together("experts")
    whole["experts"] = [experts[index] for index in range(count)]
    whole["expert_buffers"] = together("expert_buffers")
    if optimizer is not None:
        whole["architecture_optimizer"] = {**whole["architecture_optimizer"], "state": together("moments")}
    return whole
