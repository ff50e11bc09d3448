"""All fairness metrics of one set of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lbgnas.errors import LbgnasError, unknown
from lbgnas.fairness.bootstrap import intervals, resampled
from lbgnas.fairness.definitions import accuracy, macro, measure, worst_cell
from lbgnas.fairness.metrics import columns_of, privileged_code
from lbgnas.fairness.rates import Cells, binned, count, gather, share
from lbgnas.fairness.result import Cell, FairnessReport
from lbgnas.fairness.samples import Floats, Group, Positive, Samples, plain, positive_set, read, read_columns, read_pair
from lbgnas.fairness.undefined import gaps_in_data, undefined_metrics


def fairness_report(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    sensitive_features: object,
    pos_label: Positive | None = None,
    label_names: Sequence[str] | Mapping[int, str] | None = None,
    attribute_names: Sequence[str] | Mapping[Any, str] | None = None,
    multiclass: str = "ovr",
    privileged: Group | None = None,
    n_boot: int = 0,
    ci_quantiles: tuple[float, float] = (0.025, 0.975),
    random_state: int = 0,
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
        pos_label: the positive label, or a set of labels taken as one; None for 1 among 0 and 1 (or -1 and 1).
        label_names: names by label; also says which labels there are.
        attribute_names: names by sensitive value; also says which groups there are.
        multiclass: "ovr" or "pos_label".
        privileged: the sensitive value that the signed metrics subtract.
        n_boot: bootstrap samples for intervals; 0 for none.
        ci_quantiles: their ends.
        random_state: their seed.

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
    read_pair(y_true, y_pred)
    attributes = _attributes(attribute_names, sensitive_features)
    samples = read(y_true, y_pred, sensitive_features, groups=attributes)
    given = label_names if label_names is None or isinstance(label_names, Mapping) else dict(enumerate(label_names))
    labels = _labels(samples, given, pos_label)
    positive = _positive(samples, labels, pos_label, multiclass)
    if positive is not None and len(labels) > 2:
        samples, labels, positive = _merged(samples, labels, positive)

    columns = [[label] for label in labels] if positive is None else [positive]
    code = None if privileged is None else privileged_code(samples, privileged)
    gathered = gather(samples)
    per_column, values = _measured(gathered, columns, list(labels), code)
    per_class = {}
    if positive is None:
        per_class = {
            name: {metric: float(found[index]) for metric, found in per_column.items()}
            for index, name in enumerate(labels.values())
        }
    metrics = {name: float(value) for name, value in values.items()}
    found = {}
    if n_boot:
        weights = resampled(gathered, n_boot, random_state)
        found = intervals(_measured(gathered, columns, list(labels), code, weights)[1], ci_quantiles)

    cells = _cells(samples, labels, attributes, positive)
    undefined = gaps_in_data([(c.label, c.label_name, c.attribute_name, c.count) for c in cells], positive)
    if len(set(samples.codes.tolist())) == 1:
        undefined.append("Only one group has samples, so every gap between groups is undefined.")
    undefined += undefined_metrics({n: v for n, v in metrics.items() if n != "accuracy"}, per_class)
    named = None
    if privileged is not None:
        named = attributes[plain(privileged)] if attributes else _name(plain(privileged))
    return FairnessReport(
        accuracy=metrics.pop("accuracy"),
        metrics=metrics,
        per_class=per_class,
        cells=cells,
        undefined=tuple(undefined),
        samples=len(samples.y),
        dropped=samples.dropped,
        collapsed=len(np.unique(samples.p)) == 1,
        privileged=named,
        intervals=found,
        resamples=n_boot,
    )


def _measured(
    cells: Cells, columns: list[list[int]], labels: list[int], privileged: int | None, weights: Floats | None = None
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Return the metrics of each column, and those of all: of the data, or of each resample."""
    per_column = measure(count(cells, columns, weights), privileged)
    by_label = count(cells, [[label] for label in labels], weights)
    return per_column, {
        "accuracy": accuracy(by_label),
        **{name: macro(values) for name, values in per_column.items()},
        "worst_group_accuracy": worst_cell(by_label),
    }


def _positive(
    samples: Samples, labels: dict[int, str], pos_label: Positive | None, multiclass: str
) -> list[int] | None:
    """Return the labels taken as positive, None for one-vs-rest."""
    if len(labels) > 2 and multiclass == "ovr":
        return None
    if pos_label is None:
        if len(labels) > 2:
            raise LbgnasError('pos_label: needed with multiclass="pos_label" and more than two labels')
        return [1] if 1 in labels else columns_of(samples, None)[0]
    chosen = positive_set(pos_label)
    stray = [label for label in chosen if label not in labels]
    if stray:
        raise unknown("label", stray[0], map(str, labels), "pos_label")
    return chosen


def _merged(samples: Samples, labels: dict[int, str], positive: list[int]) -> tuple[Samples, dict[int, str], list[int]]:
    y, p = (np.isin(part, positive).astype(np.int64) for part in (samples.y, samples.p))
    name = " + ".join(labels[label] for label in positive)
    merged = Samples(y, p, samples.codes, samples.groups, samples.weight, samples.dropped)
    return merged, {0: "rest", 1: name}, [1]


def _attributes(names: Sequence[str] | Mapping[Any, str] | None, sensitive: object) -> dict[Group, str] | None:
    if names is None or isinstance(names, Mapping):
        return None if names is None else {plain(group): str(name) for group, name in names.items()}
    # a list of names beside string values can only say which strings may occur
    textual = any(isinstance(value, str) for column in read_columns(sensitive) for value in column)
    return {name if textual else code: str(name) for code, name in enumerate(names)}


def _labels(samples: Samples, names: Mapping[int, str] | None, pos_label: Positive | None) -> dict[int, str]:
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
    elif len(seen) == 1 and pos_label is not None:
        seen |= set(positive_set(pos_label))
    return {label: str(label) for label in sorted(seen)}


def _cells(
    samples: Samples, labels: dict[int, str], names: Mapping[Group, str] | None, positive: list[int] | None
) -> tuple[Cell, ...]:
    size, order = len(samples.groups), list(labels)
    place = {label: index for index, label in enumerate(order)}
    code = np.array([place[label] for label in samples.y.tolist()], dtype=np.int64) * size + samples.codes

    def mean(values: Floats) -> Floats:
        return share(binned(code, values, size * len(order)), counts)

    counts = np.bincount(code, minlength=size * len(order)).astype(np.float64)
    right = mean((samples.y == samples.p).astype(np.float64))
    chosen = np.full(len(counts), np.nan)
    if positive is not None:
        chosen = mean(np.isin(samples.p, positive).astype(np.float64))
    return tuple(
        Cell(
            label,
            group,
            labels[label],
            _name(group) if names is None else names[group],
            int(counts[k]),
            float(right[k]),
            float(chosen[k]),
        )
        for k, (label, group) in enumerate((label, group) for label in order for group in samples.groups)
    )


def _name(group: Group) -> str:
    return " & ".join(map(str, group)) if isinstance(group, tuple) else str(group)
