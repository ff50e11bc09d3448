"""Reading what metrics are given: labels, predictions, sensitive values and weights, one per sample."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Samples:
    """Checked input.

    Attributes:
        y, p: labels and predictions, int64 (N,).
        codes: which of `groups` each sample belongs to, int64 (N,).
        groups: the sensitive values, or their combinations.
        weight: float64 (N,), ones by default.
        dropped: samples left out since their sensitive value is missing.
    """

    y: Ints
    p: Ints
    codes: Ints
    groups: tuple[Group, ...]
    weight: Floats
    dropped: int


def read(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    sensitive: object,
    *,
    groups: Collection[Group] | None = None,
    sample_weight: ArrayLike | None = None,
) -> Samples:
    """Check the input, drop samples whose sensitive value is missing, and number the groups.

    Several attributes (a mapping of columns, or shape (N, attributes)) make the groups all their
    combinations, seen or not.

    Args:
        y_true: integer labels (N,).
        y_pred: integer labels (N,).
        sensitive: strings or integer codes; None, NaN and negative codes are missing.
        groups: every group that may occur, when known beforehand.
        sample_weight: (N,), 0 or more, or None.

    Raises:
        LbgnasError: unusable labels, weights or sensitive values, lengths that differ, a value outside `groups`.
    """
    y, p = read_pair(y_true, y_pred)
    codes, found = read_groups(sensitive, len(y), groups)
    weight = read_weights(sample_weight, len(y))
    keep = codes >= 0
    if not weight[keep].any():
        raise LbgnasError("sample_weight: all weights are 0 where sensitive_features is known")
    return Samples(y[keep], p[keep], codes[keep], found, weight[keep], int((~keep).sum()))


def read_labels(values: ArrayLike, name: str) -> Ints:
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


def read_pair(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[Ints, Ints]:
    """Return both label arrays, of one length."""
    y, p = read_labels(y_true, "y_true"), read_labels(y_pred, "y_pred")
    if len(y) != len(p):
        raise LbgnasError(f"y_pred: {len(p)} values for {len(y)} in y_true; both must have one per sample")
    return y, p


def read_weights(values: ArrayLike | None, count: int) -> Floats:
    """Return weights as float64 (count,), scaled to the maximum 1; ones where none are given."""
    if values is None:
        return np.ones(count)
    array = _array(values, "sample_weight")
    if array.shape != (count,) or array.dtype.kind not in "fiub":
        raise LbgnasError(f"sample_weight: {array.dtype} of shape {array.shape}; {count} numbers are needed")
    wrong = np.flatnonzero(~(np.isfinite(array) & (array >= 0)))
    if wrong.size:
        raise LbgnasError(f"sample_weight: {array[wrong[0]]!s} at index {wrong[0]}; allowed are numbers from 0")
    if not array.any():
        raise LbgnasError("sample_weight: all weights are 0; at least one must be above")
    return array.astype(np.float64) / float(array.max())


def read_groups(
    sensitive: object, count: int, groups: Collection[Group] | None = None
) -> tuple[Ints, tuple[Group, ...]]:
    """Return each sample's group code, -1 where its sensitive value is missing, and the groups."""
    columns = read_columns(sensitive)
    if not columns or len(columns[0]) != count:
        given = len(columns[0]) if columns else 0
        raise LbgnasError(f"sensitive_features: {given} values for {count} in y_true; one per sample is needed")
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
    if all(row is None for row in rows):
        raise LbgnasError(f"sensitive_features: all {count} values are missing; at least one must be known")
    return np.array([-1 if row is None else index[row] for row in rows], dtype=np.int64), tuple(index)


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


def positive_set(pos_label: Positive) -> list[int]:
    """Return the positive labels as a sorted list of int."""
    given = plain(pos_label)
    chosen = list(given) if isinstance(given, Collection) and not isinstance(given, str) else [given]
    if not chosen or not all(isinstance(label, int | np.integer) for label in chosen):
        raise LbgnasError(f"pos_label: {pos_label!r} is neither an integer label nor a non-empty set of them")
    return sorted({int(label) for label in chosen})


def plain(value: object) -> Any:
    """Return arrays, tensors and their scalars as Python lists and scalars, anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _array(values: object, name: str) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as fault:
        reason = str(fault).splitlines()[0]
        raise LbgnasError(f"{name}: cannot be read as an array on the CPU ({reason})") from None


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


def _ordered(values: Collection[Value]) -> list[Value]:
    return sorted(values, key=lambda value: (isinstance(value, str), value))
