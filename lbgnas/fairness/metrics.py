"""Group-fairness metrics of hard label predictions, undefined (NaN) where the data cannot tell.

Notation: y truth, p prediction, a sensitive value (the group), c the positive label;
sel_a = P(p=c | a), TPR_a = P(p=c | y=c, a), FPR_a = P(p=c | y!=c, a), FNR_a = 1 - TPR_a.
"gap" is the maximum minus the minimum over the groups where the rate is defined; fewer than two such groups
make it NaN, never 0. All values are fractions, not per cent.

With `privileged=g` the three signed metrics (spd, eod, aod) are "all other groups pooled" minus "group g", as
in AIF360; with `privileged=None` they are the gap of the same quantity over the groups, so never negative.

"EOD" is the Equal Opportunity difference here, and there is no bare "deo": the literature uses that name for
deo_sum, deo_max and deo_opp alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lbgnas.errors import LbgnasError, unknown

Value: TypeAlias = int | str
Group: TypeAlias = Value | tuple[Value, ...]
Positive: TypeAlias = int | Collection[int]
Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

_USES = {
    "dp": ("selection",),
    "spd": ("selection",),
    "eod": ("tpr",),
    "aod": ("tpr", "fpr"),
    "abs_aod": ("tpr", "fpr"),
    "deo_sum": ("tpr", "fpr"),
    "deo_max": ("tpr", "fpr"),
    "deo_opp": ("tpr",),
    "tprd": ("tpr",),
    "max_fnr": ("tpr",),
    "fprd": ("fpr",),
    "max_fpr": ("fpr",),
}
_SIGNED = ("spd", "eod", "aod")
_WORDS = {"selection": "selection rate", "tpr": "true-positive rate", "fpr": "false-positive rate"}


class UndefinedRateWarning(UserWarning):
    """A group had no sample of the kind a rate needs, so a metric left it out or is NaN."""


@dataclass(frozen=True)
class Samples:
    """Checked input: int64 labels and group codes (N,), the groups the codes stand for, samples dropped."""

    y: Ints
    p: Ints
    codes: Ints
    groups: tuple[Group, ...]
    dropped: int


@dataclass(frozen=True)
class GroupRates:
    """Rates per group, arrays (G,) in [0, 1], NaN where the group has no sample to estimate them from."""

    groups: tuple[Group, ...]
    selection: Floats
    tpr: Floats
    fpr: Floats


def mean_by(values: NDArray[np.bool_], codes: Ints, size: int) -> Floats:
    """Return the share of true values per code 0..size-1, NaN for a code without samples."""
    count = np.bincount(codes, minlength=size)
    total = np.bincount(codes, weights=values, minlength=size)
    share: Floats = np.divide(total, count, out=np.full(size, np.nan), where=count > 0)
    return share


def spread(values: Floats) -> float:
    """Return max - min over the defined values, NaN when fewer than two are defined."""
    defined = values[~np.isnan(values)]
    return float(defined.max() - defined.min()) if defined.size > 1 else float("nan")


def _largest(values: Floats) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.max()) if defined.size else float("nan")


def _array(values: object, name: str) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as fault:
        reason = str(fault).splitlines()[0]
        raise LbgnasError(f"{name}: cannot be read as an array on the CPU ({reason})") from None


def check_labels(values: ArrayLike, name: str) -> Ints:
    """Return labels as int64 (N,).

    Raises:
        LbgnasError: not one-dimensional, empty, or not integers (probabilities, strings, NaN).
    """
    array = _array(values, name)
    if array.ndim != 1:
        raise LbgnasError(f"{name}: shape {array.shape} is not one label per sample; allowed is (N,)")
    if not array.size:
        raise LbgnasError(f"{name}: empty; at least one sample is needed")
    if array.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(array) | (array != np.round(array)))
        if bad.size:
            raise LbgnasError(
                f"{name}: {array[bad[0]]!s} at index {bad[0]} is not an integer label; "
                "allowed are class indices, so threshold or argmax scores first"
            )
    elif array.dtype.kind not in "iub":
        raise LbgnasError(
            f"{name}: values such as {array[0]!r} (dtype {array.dtype}) are not integer labels; encode them"
        )
    return array.astype(np.int64)


def check_pair(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[Ints, Ints]:
    """Return both label arrays, of one length."""
    y, p = check_labels(y_true, "y_true"), check_labels(y_pred, "y_pred")
    if len(y) != len(p):
        raise LbgnasError(f"y_pred: {len(p)} values for {len(y)} in y_true; both must have one per sample")
    return y, p


def plain(value: object) -> Any:
    """Return arrays, tensors and their scalars as Python lists and scalars, anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _value(raw: object) -> Value | None:
    """Return one sensitive value, None for a missing one: None, NaN, NA, or a negative code."""
    item = plain(raw)
    if item is None or type(item).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(item, str):
        return item
    if isinstance(item, int | float):
        if item != item or item < 0:
            return None
        if item == item // 1:
            return int(item)
    raise LbgnasError(
        f"sensitive_features: {item!r} is neither a string nor an integer code; bin continuous values first"
    )


def read_columns(sensitive: object) -> list[list[Value | None]]:
    """Return the sensitive values, one list per attribute, None where missing."""
    if isinstance(sensitive, Mapping):
        columns = [column for part in sensitive.values() for column in read_columns(part)]
        if len({len(column) for column in columns}) > 1:
            raise LbgnasError("sensitive_features: the columns differ in length; each needs one value per sample")
        return columns
    if isinstance(sensitive, list | tuple):
        # numpy alone would turn ["a", nan] into the strings "a" and "nan"
        items = [plain(item) for item in sensitive]
        nested = bool(items) and all(isinstance(item, list | tuple) for item in items)
        if nested and len({len(item) for item in items}) == 1:
            return [[_value(raw) for raw in column] for column in zip(*items, strict=True)]
        return [[_value(raw) for raw in items]]
    array = _array(sensitive, "sensitive_features")
    if array.ndim not in (1, 2):
        raise LbgnasError(f"sensitive_features: shape {array.shape}; allowed are (N,) and (N, attributes)")
    table = array[:, None] if array.ndim == 1 else array
    return [[_value(raw) for raw in column] for column in table.T.tolist()]


def _ordered(values: Collection[Value]) -> list[Value]:
    return sorted(values, key=lambda value: (isinstance(value, str), value))


def encode(y_true: ArrayLike, y_pred: ArrayLike, sensitive: object, groups: Collection[Group] | None = None) -> Samples:
    """Check the input, drop samples whose sensitive value is missing, and number the groups.

    Several attributes (a mapping of columns, or shape (N, attributes)) make the groups all their
    combinations, seen or not.

    Args:
        y_true: integer labels (N,).
        y_pred: integer labels (N,).
        sensitive: strings or integer codes; None, NaN and negative codes are missing.
        groups: every group that may occur, when known beforehand.

    Raises:
        LbgnasError: unusable labels or sensitive values, lengths that differ, a value outside `groups`.
    """
    y, p = check_pair(y_true, y_pred)
    columns = read_columns(sensitive)
    if not columns or len(columns[0]) != len(y):
        given = len(columns[0]) if columns else 0
        raise LbgnasError(f"sensitive_features: {given} values for {len(y)} in y_true; one per sample is needed")
    rows: list[Group | None] = []
    for row in zip(*columns, strict=True):
        known = tuple(value for value in row if value is not None)
        rows.append(None if len(known) < len(row) else known if len(row) > 1 else known[0])
    if groups is None:
        seen = [_ordered({value for value in column if value is not None}) for column in columns]
        groups = list(product(*seen)) if len(columns) > 1 else list(seen[0])
    index = {group: code for code, group in enumerate(groups)}
    stray = next((row for row in rows if row is not None and row not in index), None)
    if stray is not None:
        raise unknown("value", stray, [str(group) for group in index], "sensitive_features")
    codes = np.array([-1 if row is None else index[row] for row in rows], dtype=np.int64)
    keep = codes >= 0
    if not keep.any():
        raise LbgnasError(f"sensitive_features: all {len(y)} values are missing; at least one must be known")
    return Samples(y[keep], p[keep], codes[keep], tuple(index), int((~keep).sum()))


def positives(labels: Ints, pos_label: Positive) -> NDArray[np.bool_]:
    """Return which labels are positive; `pos_label` is one label or a collection merged into one."""
    return np.isin(labels, positive_set(pos_label))


def positive_set(pos_label: Positive) -> list[int]:
    """Return the positive labels as a list of int."""
    given = plain(pos_label)
    chosen = list(given) if isinstance(given, Collection) and not isinstance(given, str) else [given]
    if not chosen or not all(isinstance(label, int | np.integer) for label in chosen):
        raise LbgnasError(f"pos_label: {pos_label!r} is neither an integer label nor a non-empty set of them")
    return sorted({int(label) for label in chosen})


def rates(samples: Samples, pos_label: Positive) -> GroupRates:
    """Return sel_a, TPR_a and FPR_a of `pos_label` against the rest, per group."""
    y, p, size = positives(samples.y, pos_label), positives(samples.p, pos_label), len(samples.groups)
    return GroupRates(
        samples.groups,
        mean_by(p, samples.codes, size),
        mean_by(p[y], samples.codes[y], size),
        mean_by(p[~y], samples.codes[~y], size),
    )


def against(samples: Samples, privileged: Group) -> Samples:
    """Return the samples in two groups: 0 all others pooled, 1 the privileged one."""
    group = plain(privileged)
    if group not in samples.groups:
        raise unknown("group", group, [str(name) for name in samples.groups], "privileged")
    codes = (samples.codes == samples.groups.index(group)).astype(np.int64)
    return Samples(samples.y, samples.p, codes, (f"not {group}", str(group)), samples.dropped)


def measure(between: GroupRates, contrast: GroupRates | None = None) -> dict[str, float]:
    """Return every metric of given rates; `contrast` holds (unprivileged, privileged) for the signed ones."""

    def signed(of: GroupRates, values: Floats) -> float:
        return spread(values) if of is between else float(values[0] - values[1])

    two = contrast or between
    tpr_gap, fpr_gap = spread(between.tpr), spread(between.fpr)
    return {
        "dp": spread(between.selection),
        "spd": signed(two, two.selection),
        "eod": signed(two, two.tpr),
        "aod": signed(two, (two.tpr + two.fpr) / 2),
        "abs_aod": (tpr_gap + fpr_gap) / 2,
        "deo_sum": tpr_gap + fpr_gap,
        "deo_max": float(np.maximum(tpr_gap, fpr_gap)),
        "deo_opp": spread(1 - between.tpr),
        "tprd": tpr_gap,
        "max_fnr": _largest(1 - between.tpr),
        "fprd": fpr_gap,
        "max_fpr": _largest(between.fpr),
    }


def _warn(name: str, of: GroupRates) -> None:
    for rate in _USES[name]:
        missing = [str(g) for g, value in zip(of.groups, getattr(of, rate), strict=True) if np.isnan(value)]
        defined = len(of.groups) - len(missing)
        if missing:
            text = f"{name}: the {_WORDS[rate]} of group {', '.join(missing)} is undefined (no samples for it)"
        elif defined < 2 and not name.startswith("max_"):
            text = f"{name}: only one group, so there is no gap and the result is NaN"
        else:
            continue
        warnings.warn(text, UndefinedRateWarning, stacklevel=4)


def _metric(
    name: str,
    y_true: ArrayLike,
    y_pred: ArrayLike,
    sensitive: object,
    pos_label: Positive,
    privileged: Group | None = None,
) -> float:
    samples = encode(y_true, y_pred, sensitive)
    chosen, seen = positive_set(pos_label), np.union1d(samples.y, samples.p)
    if len(seen) > 1 and not np.isin(chosen, seen).any():
        raise unknown("label", pos_label, map(str, seen), "pos_label")
    between = rates(samples, chosen)
    contrast = None if privileged is None else rates(against(samples, privileged), chosen)
    _warn(name, contrast if contrast and name in _SIGNED else between)
    return measure(between, contrast)[name]


def _recall(name: str, y_true: ArrayLike, y_pred: ArrayLike) -> float:
    y, p = check_pair(y_true, y_pred)
    labels, codes = np.unique(y, return_inverse=True)
    recall = mean_by(p == y, codes.astype(np.int64), len(labels))
    classes = GroupRates(tuple(labels.tolist()), recall, recall, recall)
    _warn(name, classes)
    return measure(classes)[name]


def accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Return mean(p = y), in [0, 1].

    Raises:
        LbgnasError: as all metrics here, for empty input, unequal lengths and labels that are not integers.

    Example:
        >>> accuracy([1, 1, 0, 0], [1, 0, 0, 1])
        0.5
    """
    y, p = check_pair(y_true, y_pred)
    return float(np.mean(y == p))


def dp(y_true: ArrayLike, y_pred: ArrayLike, *, sensitive_features: object, pos_label: Positive = 1) -> float:
    """Demographic parity difference: max_a sel_a - min_a sel_a, in [0, 1].

    Example:
        >>> dp([1, 1, 0, 0], [1, 0, 0, 0], sensitive_features=["a", "a", "b", "b"])
        0.5
    """
    return _metric("dp", y_true, y_pred, sensitive_features, pos_label)


def spd(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    sensitive_features: object,
    pos_label: Positive = 1,
    privileged: Group | None = None,
) -> float:
    """Statistical parity difference: sel_unprivileged - sel_privileged, in [-1, 1]; dp without privileged.

    Example:
        >>> spd([1, 0, 1, 0], [0, 0, 1, 0], sensitive_features=["a", "a", "b", "b"], privileged="b")
        -0.5
    """
    return _metric("spd", y_true, y_pred, sensitive_features, pos_label, privileged)


def eod(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    sensitive_features: object,
    pos_label: Positive = 1,
    privileged: Group | None = None,
) -> float:
    """Equal *opportunity* difference: TPR_unprivileged - TPR_privileged, in [-1, 1]; else the gap of TPR."""
    return _metric("eod", y_true, y_pred, sensitive_features, pos_label, privileged)


def aod(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    sensitive_features: object,
    pos_label: Positive = 1,
    privileged: Group | None = None,
) -> float:
    """Average odds difference: ((FPR_u - FPR_p) + (TPR_u - TPR_p)) / 2, in [-1, 1].

    Opposite signs cancel: 0 does not mean fair, see abs_aod. Without `privileged`: the gap of (TPR + FPR)/2.
    """
    return _metric("aod", y_true, y_pred, sensitive_features, pos_label, privileged)


def abs_aod(y_true: ArrayLike, y_pred: ArrayLike, *, sensitive_features: object, pos_label: Positive = 1) -> float:
    """Average absolute odds difference: (gap TPR + gap FPR) / 2, in [0, 1]; nothing cancels."""
    return _metric("abs_aod", y_true, y_pred, sensitive_features, pos_label)


def deo_sum(y_true: ArrayLike, y_pred: ArrayLike, *, sensitive_features: object, pos_label: Positive = 1) -> float:
    """Difference of equalized odds, summed: gap TPR + gap FPR, in [0, 2].

    Example:
        >>> deo_sum([1, 0, 1, 0], [1, 0, 0, 1], sensitive_features=[0, 0, 1, 1])
        2.0
    """
    return _metric("deo_sum", y_true, y_pred, sensitive_features, pos_label)


def deo_max(y_true: ArrayLike, y_pred: ArrayLike, *, sensitive_features: object, pos_label: Positive = 1) -> float:
    """Difference of equalized odds, worst case: max(gap TPR, gap FPR), in [0, 1]; NaN if either is."""
    return _metric("deo_max", y_true, y_pred, sensitive_features, pos_label)


def deo_opp(y_true: ArrayLike, y_pred: ArrayLike, *, sensitive_features: object, pos_label: Positive = 1) -> float:
    """Difference of equal opportunity: gap of FNR, in [0, 1]; equal to tprd."""
    return _metric("deo_opp", y_true, y_pred, sensitive_features, pos_label)


def tprd(y_true: ArrayLike, y_pred: ArrayLike, *, sensitive_features: object, pos_label: Positive = 1) -> float:
    """True-positive-rate difference: max_a TPR_a - min_a TPR_a, in [0, 1].

    `sensitive_features=None` makes each class its own group: the gap of per-class recall, `pos_label` unused.
    """
    if sensitive_features is None:
        return _recall("tprd", y_true, y_pred)
    return _metric("tprd", y_true, y_pred, sensitive_features, pos_label)


def max_fnr(y_true: ArrayLike, y_pred: ArrayLike, *, sensitive_features: object, pos_label: Positive = 1) -> float:
    """Worst false-negative rate: max_a (1 - TPR_a), in [0, 1]; None as in tprd: 1 - the worst recall."""
    if sensitive_features is None:
        return _recall("max_fnr", y_true, y_pred)
    return _metric("max_fnr", y_true, y_pred, sensitive_features, pos_label)


def fprd(y_true: ArrayLike, y_pred: ArrayLike, *, sensitive_features: object, pos_label: Positive = 1) -> float:
    """False-positive-rate difference: max_a FPR_a - min_a FPR_a, in [0, 1]."""
    return _metric("fprd", y_true, y_pred, sensitive_features, pos_label)


def max_fpr(y_true: ArrayLike, y_pred: ArrayLike, *, sensitive_features: object, pos_label: Positive = 1) -> float:
    """Worst false-positive rate: max_a FPR_a, in [0, 1]."""
    return _metric("max_fpr", y_true, y_pred, sensitive_features, pos_label)


def worst_group_accuracy(y_true: ArrayLike, y_pred: ArrayLike, *, sensitive_features: object) -> float:
    """Worst-group accuracy: the minimum over non-empty cells (y, a) of P(p = y | y, a), in [0, 1].

    The cells are label and attribute together, as in group DRO (Sagawa et al. 2020, arXiv:1911.08731).

    Example:
        >>> worst_group_accuracy([0, 0, 1, 1], [0, 0, 1, 0], sensitive_features=[0, 1, 0, 1])
        0.0
    """
    samples = encode(y_true, y_pred, sensitive_features)
    _, label = np.unique(samples.y, return_inverse=True)
    cell = label.astype(np.int64) * len(samples.groups) + samples.codes
    return float(np.nanmin(mean_by(samples.y == samples.p, cell, int(cell.max()) + 1)))
