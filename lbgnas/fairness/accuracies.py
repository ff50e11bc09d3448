"""Accuracy: of all, of the worst cell of label and group, and as it would be with other shares of the cells."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from lbgnas.errors import LbgnasError
from lbgnas.fairness.definitions import worst_cell
from lbgnas.fairness.rates import Counts, count, gather, share
from lbgnas.fairness.samples import Group, Samples, read, read_pair, read_weights


def accuracy(y_true: ArrayLike, y_pred: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    """Return P(p = y), in [0, 1].

    Raises:
        LbgnasError: as all metrics here, for empty input, unequal lengths and labels that are not integers.

    Example:
        >>> accuracy([1, 1, 0, 0], [1, 0, 0, 1])
        0.5
    """
    y, p = read_pair(y_true, y_pred)
    return float(np.average(y == p, weights=read_weights(sample_weight, len(y))))


def error(y_true: ArrayLike, y_pred: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    """Return the error rate in per cent, 0 to 100, as the papers print it."""
    return 100 * (1 - accuracy(y_true, y_pred, sample_weight=sample_weight))


def worst_group_accuracy(
    y_true: ArrayLike, y_pred: ArrayLike, *, sensitive_features: object, sample_weight: ArrayLike | None = None
) -> float:
    """Worst-group accuracy: the minimum over non-empty cells (y, a) of P(p = y | y, a), in [0, 1].

    The cells are label and attribute together, as in group DRO (Sagawa et al. 2020, arXiv:1911.08731).

    Example:
        >>> worst_group_accuracy([0, 0, 1, 1], [0, 0, 1, 0], sensitive_features=[0, 1, 0, 1])
        0.0
    """
    _, counts = _cells(y_true, y_pred, sensitive_features, sample_weight)
    return float(worst_cell(counts))


def shifted_accuracy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    sensitive_features: object,
    shares: Mapping[tuple[int, Group], float],
    sample_weight: ArrayLike | None = None,
) -> float:
    """Accuracy as if cells were as frequent as elsewhere: sum of share(y, a) P(p = y | y, a), in [0, 1].

    The convention of Waterbirds (group DRO): a balanced test split read with the shares of the training data.

    Args:
        y_true, y_pred, sensitive_features, sample_weight: see `lbgnas.fairness.metrics`.
        shares: of every cell (label, group), with the sum 1.

    Raises:
        LbgnasError: shares that do not add up to 1, or one above 0 of a cell without samples.

    Example:
        >>> cells = {(0, "a"): 0.7, (0, "b"): 0.1, (1, "a"): 0.1, (1, "b"): 0.1}
        >>> shifted_accuracy([0, 0, 1, 1], [0, 1, 1, 1], sensitive_features=list("abab"), shares=cells)
        0.9
    """
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise LbgnasError(f"shares: add up to {sum(shares.values()):.6g}; the sum must be 1")
    samples, counts = _cells(y_true, y_pred, sensitive_features, sample_weight)
    labels, recall = np.unique(samples.y).tolist(), share(counts.hits, counts.positive)
    total = 0.0
    for (label, group), part in shares.items():
        there = label in labels and group in samples.groups
        value = recall[labels.index(label), samples.groups.index(group)] if there else np.nan
        if part and np.isnan(value):
            raise LbgnasError(f"shares: cell {(label, group)} has no samples, so its accuracy is not known")
        total += part * float(value) if part else 0.0
    return total


def _cells(
    y_true: ArrayLike, y_pred: ArrayLike, sensitive: object, sample_weight: ArrayLike | None
) -> tuple[Samples, Counts]:
    samples = read(y_true, y_pred, sensitive, sample_weight=sample_weight)
    return samples, count(gather(samples), [[label] for label in np.unique(samples.y).tolist()])
