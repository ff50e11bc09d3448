"""What a sweep varies, what stays, and the settings of one trial. No torch, no NNI."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, field_validator

from lbgnas.config import EvaluationSettings, SearchSettings, Settings, load_preset, merged, validated
from lbgnas.errors import LbgnasError

EVALUATION = "evaluation."
METRICS = ("routed_accuracy", "mixture_accuracy", "worst_group_accuracy", "dp", "deo_sum")
LOWER_IS_BETTER = ("dp", "deo_sum")


def _seeds(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


class SweepSettings(Settings):
    """Everything a sweep depends on."""

    vary: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Values by setting of a search (adaptation_weight, num_experts, gate.scouts) or evaluation.SETTING."""
    fixed: dict[str, Any] = Field(default_factory=dict)
    """Settings that all trials share, by the same names."""
    seeds: Annotated[tuple[int, ...], BeforeValidator(_seeds)] = (0, 1, 2)
    """Seeds of every combination."""
    tuner: Literal["grid", "random", "tpe"] = "grid"
    """grid: every combination and seed is a trial; random, tpe: a trial is one combination with all seeds."""
    trials: int | None = Field(None, ge=1)
    """Trials of random and tpe."""
    metric: Literal["routed_accuracy", "mixture_accuracy", "worst_group_accuracy", "dp", "deo_sum"] = "routed_accuracy"
    """What tpe looks at and the table is sorted by; on the test split, so choose a final setting elsewhere."""
    jobs: int = Field(1, ge=1)
    """Trials at a time."""
    threads: int = Field(1, ge=1)
    """CPU threads of a trial."""
    preset: str = "quick"
    """Settings that all trials start from."""

    @field_validator("vary")
    @classmethod
    def _lists(cls, value: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for name, values in value.items():
            if not values:
                raise ValueError(f"{name} has no values")
            if name == "seed":
                raise ValueError("seeds are given by --seeds")
        return value

    @property
    def combinations(self) -> list[dict[str, Any]]:
        """Every combination of the varied values, seeds left out."""
        return [dict(zip(self.vary, values, strict=True)) for values in itertools.product(*self.vary.values())]

    @property
    def search_space(self) -> dict[str, dict[str, Any]]:
        """NNI's search space: a choice for each varied setting, and for the seed where each is a trial of its own."""
        space = {name: {"_type": "choice", "_value": list(values)} for name, values in self.vary.items()}
        if self.tuner == "grid":
            space["seed"] = {"_type": "choice", "_value": list(self.seeds)}
        return space

    @property
    def number_of_trials(self) -> int:
        """How many trials there are."""
        if self.tuner == "grid":
            return len(self.combinations) * len(self.seeds)
        return self.trials or 0


def assignment(given: str, flag: str) -> tuple[str, str]:
    """Return (key, text after the first =), the key with underscores."""
    key, sign, text = given.partition("=")
    if not sign or not key or not text:
        raise LbgnasError(f"{flag} {given}: KEY=VALUE is needed, as in {flag} adaptation_weight=0.1")
    return key.replace("-", "_"), text


def scalar(text: str) -> Any:
    """Return a value as YAML reads it: 0.1, 3, true, null, pcdarts."""
    return yaml.safe_load(text)


def trial_settings(
    sweep: SweepSettings, combination: Mapping[str, Any], seed: int
) -> tuple[SearchSettings, dict[str, Any]]:
    """Return the settings of a trial's search, and those of its evaluation but for the genotype.

    Raises:
        LbgnasError: for an unknown setting or a value that is not allowed.
    """
    search: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    for name, value in {**sweep.fixed, **combination, "seed": seed}.items():
        place, inner = (evaluation, name.removeprefix(EVALUATION)) if name.startswith(EVALUATION) else (search, name)
        nested: Any = value
        for part in reversed(inner.split(".")):
            nested = {part: nested}
        place |= merged(place, nested)
    where = ", ".join(f"{name}={value}" for name, value in combination.items()) or "sweep"
    values = merged(load_preset(sweep.preset, "search", search.get("base")), search)
    settings = validated(SearchSettings, values, where)
    rest = merged(merged(load_preset(sweep.preset, "evaluation"), evaluation), {"seed": seed})
    validated(EvaluationSettings, rest, where)
    return settings, rest


def trial_name(combination: Mapping[str, Any], seed: int) -> str:
    """Return the folder of a trial."""
    parts = [f"{name}={value}" for name, value in combination.items()]
    return ",".join([*parts, f"seed={seed}"]).replace("/", "_")
