"""Counts of samples by group, and the rates they give, one-vs-rest for several labels and many resamples at once.

Arrays end in the axes (C, G): column c takes its labels as positive and all others as negative; g is the group.
Rates are NaN where a group has no sample to estimate them from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lbgnas.fairness.samples import Floats, Ints, Samples


@dataclass(frozen=True)
class Cells:
    """Samples of one group, label and prediction taken together: codes and weights, each (J,)."""

    group: Ints
    label: Ints
    predicted: Ints
    weight: Floats
    groups: int


@dataclass(frozen=True)
class Counts:
    """Weights of samples, (..., C, G): of all, of those positive, of those predicted so, and of both."""

    total: Floats
    positive: Floats
    predicted: Floats
    hits: Floats

    def pooled(self) -> Counts:
        """Return the counts of all groups together, (..., C, 1)."""
        return Counts(*(part.sum(-1, keepdims=True) for part in self._parts()))

    def against(self, group: int) -> Counts:
        """Return the counts of two groups: all others pooled, and the given one, (..., C, 2)."""
        return Counts(*(np.stack([np.delete(part, group, -1).sum(-1), part[..., group]], -1) for part in self._parts()))

    def _parts(self) -> tuple[Floats, ...]:
        return self.total, self.positive, self.predicted, self.hits


@dataclass(frozen=True)
class Rates:
    """sel_a = P(p=c | a), TPR_a = P(p=c | y=c, a), FPR_a = P(p=c | y!=c, a), each (..., C, G) in [0, 1]."""

    selection: Floats
    tpr: Floats
    fpr: Floats


def gather(samples: Samples) -> Cells:
    """Return the samples as cells, as many as there are combinations of group, label and prediction."""
    rows = np.stack([samples.codes, samples.y, samples.p], 1)
    cells, index = np.unique(rows, axis=0, return_inverse=True)
    weight = binned(index.reshape(-1), samples.weight, len(cells))
    return Cells(cells[:, 0], cells[:, 1], cells[:, 2], weight, len(samples.groups))


def count(cells: Cells, columns: Sequence[Sequence[int]], weights: Floats | None = None) -> Counts:
    """Return the counts of each column.

    Args:
        cells: of the samples.
        columns: C disjoint sets of labels.
        weights: (B, J) to be used instead of the cells' own; the result then begins with the axis B.
    """
    column = {label: index for index, labels in enumerate(columns) for label in labels}
    y, p = (
        np.array([column.get(label, -1) for label in codes.tolist()], dtype=np.int64)
        for codes in (cells.label, cells.predicted)
    )
    shape = (len(columns), cells.groups)

    def total(code: Ints, chosen: NDArray[np.bool_], weight: Floats) -> Floats:
        place = code * cells.groups + cells.group
        return binned(place[chosen], weight[chosen], shape[0] * shape[1]).reshape(shape)

    own = cells.weight[None] if weights is None else weights
    parts = [
        (
            np.broadcast_to(binned(cells.group, row, cells.groups), shape),
            total(y, y >= 0, row),
            total(p, p >= 0, row),
            total(y, (y >= 0) & (y == p), row),
        )
        for row in own
    ]
    counts = [np.stack(part) for part in zip(*parts, strict=True)]
    return Counts(*(part[0] for part in counts)) if weights is None else Counts(*counts)


def binned(codes: Ints, weights: Floats, size: int) -> Floats:
    """Return the sum of weights by code 0..size-1."""
    return np.bincount(codes, weights, size).astype(np.float64)


def rates(counts: Counts) -> Rates:
    """Return the rates of given counts."""
    return Rates(
        share(counts.predicted, counts.total),
        share(counts.hits, counts.positive),
        share(counts.predicted - counts.hits, counts.total - counts.positive),
    )


def share(part: Floats, whole: Floats) -> Floats:
    """Return part / whole, NaN where the whole is 0."""
    # The least weight of a resample or a user is far above what a sum of differences leaves over.
    there = whole > 1e-9
    result: Floats = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=there)
    return result


def smallest(values: Floats) -> Floats:
    """Return the minimum of the defined values along the last axis, NaN where none is."""
    lowest: Floats = np.where(np.isnan(values), np.inf, values).min(-1)
    return np.where(np.isinf(lowest), np.nan, lowest)


def largest(values: Floats) -> Floats:
    """Return the maximum of the defined values along the last axis, NaN where none is."""
    return -smallest(-values)


def gap(values: Floats, overall: Floats | None = None) -> Floats:
    """Return max - min of the defined values along the last axis, NaN where fewer than two are defined.

    Args:
        values: (..., G).
        overall: (..., 1), if the largest distance from it is wanted instead.
    """
    found = largest(values) - smallest(values) if overall is None else largest(np.abs(values - overall))
    return np.where((~np.isnan(values)).sum(-1) > 1, found, np.nan)
