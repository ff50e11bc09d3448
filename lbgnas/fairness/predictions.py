"""A model's predictions from a CSV file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lbgnas.csv_files import read_columns
from lbgnas.errors import LbgnasError, unknown
from lbgnas.fairness.samples import Floats, Ints


@dataclass(frozen=True)
class Predictions:
    """What the file says of N samples.

    Attributes:
        labels: names of the labels, in the order of their codes.
        y, p: codes of labels and predictions, (N,).
        sensitive: column name -> values, None where the field is empty.
        score: (N,), or None.
        part: value of the column that divides the samples (such as the expert), or None.
    """

    labels: tuple[str, ...]
    y: Ints
    p: Ints
    sensitive: dict[str, list[str | None]]
    score: Floats | None
    part: list[str] | None

    def code(self, label: str, where: str) -> int:
        """Return the code of a label's name."""
        if label not in self.labels:
            raise unknown("label", label, self.labels, where)
        return self.labels.index(label)


def read_predictions(
    path: Path,
    *,
    label: str,
    prediction: str,
    sensitive: Sequence[str],
    score: str | None = None,
    part: str | None = None,
) -> Predictions:
    """Read the named columns of a CSV file with a header.

    Labels may be any text; whole numbers are ordered as numbers. Where only 0 or only 1 occurs, the other is meant.

    Raises:
        LbgnasError: a file that cannot be read, a column that is not there, a row of another length, a label or
            prediction that is empty, a score that is not a number; with the line.
    """
    wanted = [label, prediction, *sensitive, *(name for name in (score, part) if name is not None)]
    columns = read_columns(path, wanted, may_be_empty=sensitive)
    if not columns[label]:
        raise LbgnasError(f"{path}: has no row below its header")
    seen = {*columns[label], *columns[prediction]}
    for pair in ({"0", "1"}, {"-1", "1"}):
        seen |= pair if seen <= pair else set()
    names = sorted(seen, key=_order)
    code = {name: index for index, name in enumerate(names)}
    return Predictions(
        tuple(names),
        np.array([code[value] for value in columns[label]]),
        np.array([code[value] for value in columns[prediction]]),
        {name: [value or None for value in columns[name]] for name in sensitive},
        None if score is None else np.array([_number(value, path, score) for value in columns[score]]),
        None if part is None else columns[part],
    )


def _order(name: str) -> tuple[bool, int, str]:
    number = name.lstrip("-").isdecimal()
    return not number, int(name) if number else 0, name


def _number(value: str, path: Path, column: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise LbgnasError(f"{path}: column {column!r} holds {value!r}, which is no number")
    return number
