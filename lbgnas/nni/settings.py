"""Settings of the strategy: those of a search less what NNI's evaluator and space decide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from lbgnas.bases.base import Base
from lbgnas.config import SearchSettings, validated
from lbgnas.errors import LbgnasError, unknown

OWN = (
    "hypergradient",
    "adaptation",
    "adaptation_weight",
    "expert_balance",
    "third_level",
    "literal",
    "assignments",
    "gate",
    "architecture",
    "auxiliary_skip",
    "stages",
    "max_skips",
    "seed",
)
"""Settings of `SearchSettings` that the strategy takes by the same names."""


def strategy_settings(base: str, grouping: str, num_experts: int, given: Mapping[str, Any]) -> SearchSettings:
    """Return the settings of a search through NNI, with the paper's words where `literal` asks for them.

    Raises:
        LbgnasError: for a name or value that is not allowed.
    """
    for key in given:
        if key not in OWN:
            raise unknown("setting", key, OWN, "LBG")
    gate = given.get("gate", {})
    if isinstance(gate, Mapping):
        gate = {"scouts": 0, **gate}
    values = {"base": base, "grouping": grouping, "num_experts": num_experts, **given, "gate": gate}
    settings = validated(SearchSettings, values, "LBG").in_force
    if settings.gate.scouts:
        raise LbgnasError("LBG: gate.scouts: there are no scouts in a search through NNI; leave it at 0")
    return settings


class Timetable(NamedTuple):
    """Which stage an epoch belongs to; the last stage has what the others leave.

    Attributes:
        epochs: of the whole search.
        stages: of the base.
        frozen: epochs at the start of each stage in which A rests.
    """

    epochs: int
    stages: int
    frozen: int

    @property
    def stage_epochs(self) -> int:
        """Epochs of a stage; the last one may have more."""
        return max(1, self.epochs // self.stages)

    def place(self, epoch: int) -> tuple[int, int]:
        """Return the stage of an epoch and its number inside that stage.

        Example:
            >>> [Timetable(7, 3, 0).place(epoch) for epoch in (0, 2, 6)]
            [(0, 0), (1, 0), (2, 2)]
        """
        stage = min(epoch // self.stage_epochs, self.stages - 1)
        return stage, epoch - stage * self.stage_epochs


def timetable(settings: SearchSettings, base: Base, epochs: int | None, warmup_epochs: int | None) -> Timetable:
    """Return when stages begin and A rests.

    Args:
        settings: of the strategy.
        base: its base.
        epochs: the trainer's `max_epochs`; None or -1 where it has no end.
        warmup_epochs: NNI's way to say how long A rests; None for the share of the base or the settings.

    Raises:
        LbgnasError: if the base or the share needs to know how many epochs there are.
    """
    share = settings.architecture.warmup if settings.architecture.warmup is not None else base.warmup
    known = epochs is not None and epochs > 0
    stages = len(base.kept)
    if not known:
        if stages > 1 or base.auxiliary_skip or (warmup_epochs is None and share):
            raise LbgnasError(f"LBG: base {base.name} has schedules over the whole search; give the trainer max_epochs")
        return Timetable(2**31, 1, warmup_epochs or 0)
    assert epochs is not None
    if epochs < stages:
        raise LbgnasError(f"LBG: max_epochs is {epochs}, base {base.name} has {stages} stages of at least one epoch")
    table = Timetable(epochs, stages, 0)
    frozen = round(share * table.stage_epochs) if warmup_epochs is None else warmup_epochs
    return table._replace(frozen=frozen)
