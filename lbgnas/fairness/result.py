"""What a fairness report holds and how it is shown: metrics, the count behind every cell, a sentence per gap."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lbgnas.fairness.bootstrap import Interval
from lbgnas.fairness.markdown import number, table
from lbgnas.fairness.samples import Group


@dataclass(frozen=True)
class Cell:
    """Samples of one label and one group.

    `accuracy` is P(p = y | y, a). `predicted_positive_rate` is P(p positive | y, a): the TPR of the group in
    a positive label's row, its FPR in a negative one's; NaN with one-vs-rest, where no label is the positive.
    """

    label: int
    attribute: Group
    label_name: str
    attribute_name: str
    count: int
    accuracy: float
    predicted_positive_rate: float


@dataclass(frozen=True)
class FairnessReport:
    """What `fairness_report` found; every value is a fraction, NaN where undefined.

    Attributes:
        accuracy: over the samples kept.
        metrics: by the names of `lbgnas.fairness`. spd, eod and aod are signed if `privileged` is set
            and labels are binary, otherwise non-negative.
        per_class: label name -> metrics of that label against the rest; empty for binary labels.
        cells: every label with every group, empty ones too.
        undefined: one sentence per rate or metric that could not be estimated.
        samples: how many were used.
        dropped: how many were left out since their sensitive value is missing.
        collapsed: the predictions name one class only, so gaps of 0 say nothing about fairness.
        privileged: the privileged group's name, or None.
        intervals: of accuracy and every metric, over `resamples` bootstrap samples; empty without.
        resamples: how many bootstrap samples.
    """

    accuracy: float
    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    cells: tuple[Cell, ...]
    undefined: tuple[str, ...]
    samples: int
    dropped: int
    collapsed: bool
    privileged: str | None
    intervals: dict[str, Interval] = field(default_factory=dict)
    resamples: int = 0

    @property
    def error(self) -> float:
        """Error rate in per cent, 0..100, as the papers print it."""
        return 100 * (1 - self.accuracy)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, NaN as None."""
        return {key: _json(value) for key, value in asdict(self).items()}

    def to_markdown(self) -> str:
        """Return the metrics, the cells and the notes as Markdown tables and a list."""
        last = [*(["macro mean"] if self.per_class else ["value"]), *(["interval"] if self.intervals else [])]
        rows = [["accuracy", *([""] * len(self.per_class)), number(self.accuracy), *self._interval("accuracy")]]
        for name, value in self.metrics.items():
            parts = [number(part[name]) if name in part else "" for part in self.per_class.values()]
            rows.append([name, *parts, number(value), *self._interval(name)])
        columns = ["label", "attribute", "count", "accuracy", "predicted positive"]
        width = len(columns) - bool(self.per_class)  # one-vs-rest has no single positive label
        cells = [
            [
                cell.label_name,
                cell.attribute_name,
                str(cell.count),
                number(cell.accuracy),
                number(cell.predicted_positive_rate),
            ][:width]
            for cell in self.cells
        ]
        blocks = [
            table(["metric", *self.per_class, *last], rows),
            table(columns[:width], cells),
            "\n".join(f"- {note}" for note in self.notes()),
        ]
        return "\n\n".join(blocks) + "\n"

    def notes(self) -> list[str]:
        """Return what a reader of the numbers must know, in sentences."""
        notes = [f"{self.samples} samples used, {self.dropped} dropped for a missing sensitive value."]
        if self.collapsed:
            notes.append("The predictions name one class only: gaps of 0 say nothing about fairness.")
        if self.privileged is not None:
            notes.append(f"spd, eod and aod: all others minus {self.privileged}.")
        if self.intervals:
            notes.append(
                f"Intervals: quantiles over {self.resamples} bootstrap samples. A gap between small groups is above 0 "
                "even where the groups are treated alike."
            )
        thin = [name for name, found in self.intervals.items() if found.defined < self.resamples]
        if thin:
            notes.append(f"Intervals leave out the resamples where these are undefined: {', '.join(thin)}.")
        return [*notes, *self.undefined]

    def _interval(self, name: str) -> list[str]:
        if not self.intervals:
            return []
        found = self.intervals[name]
        return ["undefined" if math.isnan(found.low) else f"{found.low:.4f} to {found.high:.4f}"]


def _json(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
