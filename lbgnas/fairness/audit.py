"""The audit of a file of predictions: one report of all samples and one of each part."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from lbgnas.errors import LbgnasError
from lbgnas.fairness.divergence import Divergence, kl_score_divergence
from lbgnas.fairness.predictions import Predictions, read_predictions
from lbgnas.fairness.report import fairness_report
from lbgnas.fairness.result import FairnessReport


def audit(
    path: Path,
    *,
    label: str,
    prediction: str,
    sensitive: Sequence[str],
    score: str | None = None,
    by: str | None = None,
    positive: str | None = None,
    privileged: str | None = None,
    n_boot: int = 1000,
    random_state: int = 0,
) -> tuple[dict[str, FairnessReport], Divergence | None]:
    """Return the reports of a file's predictions ("all", then each part) and the divergence of its scores.

    Args:
        path: a CSV file with a header.
        label, prediction: columns.
        sensitive: columns; several are combined. An empty field is a missing value.
        score: column of the positive label's probability.
        by: column that divides the samples into parts.
        positive: the positive label; by default 1 among 0 and 1, and one-vs-rest with more than two labels.
        privileged: the group that signed metrics subtract; values of several columns joined by " & ".
        n_boot, random_state: bootstrap samples and their seed; 0 for none.

    Raises:
        LbgnasError: a file, column, label or group that does not fit.
    """
    read = read_predictions(path, label=label, prediction=prediction, sensitive=sensitive, score=score, part=by)
    chosen = _positive(read, positive)
    if score is not None and chosen is None:
        raise LbgnasError("--score: needs --positive, to say which label's probability it is")
    columns = read.sensitive.values()
    groups = [None if None in row else " & ".join(map(str, row)) for row in zip(*columns, strict=True)]
    values = [" & ".join(row) for row in product(*(sorted(filter(None, set(column))) for column in columns))]

    def report(rows: np.ndarray) -> FairnessReport:
        return fairness_report(
            read.y[rows],
            read.p[rows],
            sensitive_features=[groups[row] for row in rows],
            pos_label=chosen,
            label_names=read.labels,
            attribute_names=values or None,
            multiclass="ovr" if chosen is None else "pos_label",
            privileged=privileged,
            n_boot=n_boot,
            random_state=random_state,
        )

    reports = {"all": report(np.arange(len(read.y)))}
    if read.part is not None:
        for value in sorted(set(read.part)):
            reports[f"{by} {value}"] = report(np.flatnonzero(np.array(read.part) == value))
    if read.score is None:
        return reports, None
    assert chosen is not None
    return reports, kl_score_divergence(
        read.y, read.score, sensitive_features=groups, pos_label=chosen, n_boot=min(n_boot, 200),
        random_state=random_state,
    )  # fmt: skip


def _positive(read: Predictions, positive: str | None) -> int | None:
    if positive is not None:
        return read.code(positive, "--positive")
    if len(read.labels) > 2:
        return None
    if set(read.labels) <= {"0", "1"} or set(read.labels) <= {"-1", "1"}:
        return read.labels.index("1")
    raise LbgnasError(f"--positive: needed for the labels {' and '.join(read.labels)}")
