"""One report of all fairness metrics, with the count behind every cell and a sentence per undefined rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lbgnas.errors import LbgnasError, unknown
from lbgnas.fairness.metrics import (
    Group,
    Positive,
    Samples,
    against,
    check_pair,
    encode,
    mean_by,
    measure,
    plain,
    positive_set,
    positives,
    rates,
    read_columns,
)


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
        metrics: by the names of `lbgnas.fairness.metrics`. spd, eod and aod are signed if `privileged` is set
            and labels are binary, otherwise non-negative.
        per_class: label name -> metrics of that label against the rest; empty for binary labels.
        cells: every label with every group, empty ones too.
        undefined: one sentence per rate or metric that could not be estimated.
        samples: how many were used.
        dropped: how many were left out since their sensitive value is missing.
        collapsed: the predictions name one class only, so gaps of 0 say nothing about fairness.
        privileged: the privileged group's name, or None.
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

    @property
    def error(self) -> float:
        """Error rate in per cent, 0..100, as the papers print it."""
        return 100 * (1 - self.accuracy)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, NaN as None."""
        return {key: _json(value) for key, value in asdict(self).items()}

    def to_markdown(self) -> str:
        """Return the metrics, the cells and the notes as Markdown tables and a list."""
        head = ["metric", *map(_cell, self.per_class), *(["macro mean"] if self.per_class else ["value"])]
        rows = [["accuracy", *([""] * len(self.per_class)), _number(self.accuracy)]]
        for name, value in self.metrics.items():
            parts = [_number(part[name]) if name in part else "" for part in self.per_class.values()]
            rows.append([name, *parts, _number(value)])
        columns = ["label", "attribute", "count", "accuracy", "predicted positive"]
        width = len(columns) - bool(self.per_class)  # one-vs-rest has no single positive label
        cells = [
            [
                _cell(cell.label_name),
                _cell(cell.attribute_name),
                str(cell.count),
                _number(cell.accuracy),
                _number(cell.predicted_positive_rate),
            ][:width]
            for cell in self.cells
        ]
        notes = [f"{self.samples} samples used, {self.dropped} dropped for a missing sensitive value."]
        if self.collapsed:
            notes.append("The predictions name one class only: gaps of 0 say nothing about fairness.")
        blocks = [
            _table(head, rows),
            _table(columns[:width], cells),
            "\n".join(f"- {note}" for note in [*notes, *self.undefined]),
        ]
        return "\n\n".join(blocks) + "\n"


def _json(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _name(group: Group) -> str:
    return " & ".join(map(str, group)) if isinstance(group, tuple) else str(group)


def _attributes(names: Sequence[str] | Mapping[Any, str] | None, sensitive: object) -> dict[Group, str] | None:
    if names is None or isinstance(names, Mapping):
        return None if names is None else {plain(group): str(name) for group, name in names.items()}
    # a list of names beside string values can only say which strings may occur
    textual = any(isinstance(value, str) for column in read_columns(sensitive) for value in column)
    return {name if textual else code: str(name) for code, name in enumerate(names)}


def _labels(samples: Samples, names: Mapping[int, str] | None, positive: list[int]) -> dict[int, str]:
    seen = {int(label) for label in np.union1d(samples.y, samples.p)}
    if names is not None:
        stray = sorted(seen - set(names))
        if stray:
            raise unknown("label", stray[0], map(str, names), "label_names")
        if len(set(names.values())) < len(names):
            raise LbgnasError(f"label_names: {', '.join(map(str, names.values()))} repeats a name; all must differ")
        return {plain(label): str(name) for label, name in names.items()}
    if seen <= {0, 1}:
        seen = {0, 1}
    elif len(seen) == 1:
        seen |= set(positive)
    return {label: str(label) for label in sorted(seen)}


def _cells(
    samples: Samples, labels: dict[int, str], names: Mapping[Group, str] | None, positive: list[int] | None
) -> tuple[Cell, ...]:
    size, order = len(samples.groups), list(labels)
    code = np.array([order.index(int(label)) for label in samples.y], dtype=np.int64) * size + samples.codes
    total = size * len(order)
    count = np.bincount(code, minlength=total)
    right = mean_by(samples.y == samples.p, code, total)
    chosen = np.full(total, np.nan)
    if positive is not None:
        chosen = mean_by(positives(samples.p, positive), code, total)
    return tuple(
        Cell(
            label,
            group,
            labels[label],
            _name(group) if names is None else names[group],
            int(count[k]),
            float(right[k]),
            float(chosen[k]),
        )
        for k, (label, group) in enumerate((label, group) for label in order for group in samples.groups)
    )


def _gaps_in_data(cells: tuple[Cell, ...], positive: list[int] | None) -> list[str]:
    said = []
    groups = list(dict.fromkeys(cell.attribute for cell in cells))
    for group in groups:
        mine = [cell for cell in cells if cell.attribute == group]
        total, name = sum(cell.count for cell in mine), mine[0].attribute_name
        if not total:
            said.append(f"Group {name} has 0 samples, so all of its rates are undefined.")
            continue
        for cell in mine:
            if not cell.count:
                rate = "recall of that label"
                if positive is not None:
                    rate = "true-positive rate" if cell.label in positive else "false-positive rate"
                said.append(
                    f"None of the {total} samples of group {name} has label {cell.label_name}, "
                    f"so its {rate} is undefined."
                )
            elif positive is None and cell.count == total:
                said.append(
                    f"All {total} samples of group {name} have label {cell.label_name}, "
                    "so its false-positive rate for that label is undefined."
                )
    return said


def _undefined_metrics(metrics: dict[str, float], per_class: dict[str, dict[str, float]]) -> list[str]:
    said = []
    lost = [name for name, value in metrics.items() if math.isnan(value)]
    if lost:
        said.append(f"Undefined, since too few groups have the rates they need: {', '.join(lost)}.")
    left_out: dict[tuple[str, ...], list[str]] = {}
    for name in metrics:
        out = tuple(label for label, part in per_class.items() if math.isnan(part.get(name, 0.0)))
        if out and name not in lost:
            left_out.setdefault(out, []).append(name)
    for out, names in left_out.items():
        said.append(f"The macro mean leaves out label {', '.join(out)} in: {', '.join(names)}.")
    return said


def _macro(per_class: dict[str, dict[str, float]]) -> dict[str, float]:
    table = {name: np.abs([part[name] for part in per_class.values()]) for name in next(iter(per_class.values()))}
    defined = {name: values[~np.isnan(values)] for name, values in table.items()}
    return {name: float(values.mean()) if values.size else math.nan for name, values in defined.items()}


def fairness_report(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    sensitive_features: object,
    pos_label: Positive = 1,
    label_names: Sequence[str] | Mapping[int, str] | None = None,
    attribute_names: Sequence[str] | Mapping[Any, str] | None = None,
    multiclass: str = "ovr",
    privileged: Group | None = None,
) -> FairnessReport:
    """Return every metric of `lbgnas.fairness.metrics` with the counts behind it.

    With more than two labels, "ovr" takes each label c against the rest and reports m = mean_c |m_c| over the
    labels where m_c is defined, beside each m_c; "pos_label" merges `pos_label` into 1 and the rest into 0,
    and then reports as for binary labels.

    Args:
        y_true: integer labels (N,).
        y_pred: predicted integer labels (N,), not scores.
        sensitive_features: one string or integer code per sample, or several columns (a mapping, or shape
            (N, attributes)) whose combinations are the groups; None, NaN and negative codes are dropped.
        pos_label: the positive label, or a set of labels taken as one.
        label_names: names by label; also says which labels there are.
        attribute_names: names by sensitive value; also says which groups there are.
        multiclass: "ovr" or "pos_label".
        privileged: the sensitive value that the signed metrics subtract.

    Raises:
        LbgnasError: unusable or unequal input, a label or group that is not named, an unknown `multiclass`.

    Example:
        >>> report = fairness_report([1, 1, 0, 0], [1, 0, 0, 0], sensitive_features=[0, 1, 0, 1])
        >>> report.metrics["deo_sum"], report.metrics["worst_group_accuracy"]
        (1.0, 0.0)
    """
    if multiclass not in ("ovr", "pos_label"):
        raise unknown("multiclass", multiclass, ["ovr", "pos_label"])
    if sensitive_features is None:
        raise LbgnasError("sensitive_features: None; a value per sample is needed (tprd and max_fnr do without)")
    check_pair(y_true, y_pred)
    positive = positive_set(pos_label)
    attributes = _attributes(attribute_names, sensitive_features)
    samples = encode(y_true, y_pred, sensitive_features, attributes)
    given = label_names if label_names is None or isinstance(label_names, Mapping) else dict(enumerate(label_names))
    labels = _labels(samples, given, positive)
    several = len(labels) > 2
    if not several or multiclass == "pos_label":
        stray = [label for label in positive if label not in labels]
        if stray:
            raise unknown("label", stray[0], map(str, labels), "pos_label")
    if several and multiclass == "pos_label":
        name = " + ".join(labels[label] for label in positive)
        y, p = (positives(part, positive).astype(np.int64) for part in (samples.y, samples.p))
        samples = Samples(y, p, samples.codes, samples.groups, samples.dropped)
        labels, positive, several = {0: "rest", 1: name}, [1], False

    contrast = None if privileged is None else against(samples, privileged)
    per_class: dict[str, dict[str, float]] = {}
    if several:
        for label, name in labels.items():
            pair = None if contrast is None else rates(contrast, label)
            per_class[name] = measure(rates(samples, label), pair)
        metrics = _macro(per_class)
    else:
        metrics = measure(rates(samples, positive), None if contrast is None else rates(contrast, positive))
    cells = _cells(samples, labels, attributes, None if several else positive)
    metrics["worst_group_accuracy"] = min(cell.accuracy for cell in cells if cell.count)

    undefined = _gaps_in_data(cells, None if several else positive)
    if len(set(samples.codes.tolist())) == 1:
        undefined.append("Only one group has samples, so every gap between groups is undefined.")
    undefined += _undefined_metrics(metrics, per_class)
    named = None
    if privileged is not None:
        named = attributes[plain(privileged)] if attributes else _name(plain(privileged))
    return FairnessReport(
        accuracy=float(np.mean(samples.y == samples.p)),
        metrics=metrics,
        per_class=per_class,
        cells=cells,
        undefined=tuple(undefined),
        samples=len(samples.y),
        dropped=samples.dropped,
        collapsed=len(np.unique(samples.p)) == 1,
        privileged=named,
    )
