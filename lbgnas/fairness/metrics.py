"""The fairness metrics as functions with fairlearn's signatures; `lbgnas.fairness.definitions` has the formulas.

With more than two labels and no `pos_label`, each label c is taken against the rest and the result is the mean of
|m_c| over the labels where m_c is defined. What cannot be estimated is NaN and an `UndefinedRateWarning`, never 0.

Common arguments:
    y_true, y_pred: integer labels (N,), not scores.
    sensitive_features: strings or integer codes (N,), or several columns whose combinations are the groups; None,
        NaN and negative codes are missing, and their samples left out.
    method: "between_groups" for the maximum minus the minimum, "to_overall" for the largest distance from the rate
        of all samples.
    sample_weight: (N,), 0 or more.
    pos_label: the positive label, or several taken as one; None for 1 where labels are 0 and 1 (or -1 and 1), and
        one-vs-rest where there are more than two.
    privileged: (spd, eod, aod) the group to subtract; makes the metric signed.

Example:
    >>> dp([1, 1, 0, 0], [1, 0, 0, 0], sensitive_features=["a", "a", "b", "b"])
    0.5
    >>> spd([1, 0, 1, 0], [0, 0, 1, 0], sensitive_features=["a", "a", "b", "b"], privileged="b")
    -0.5
"""

from __future__ import annotations

import warnings
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from lbgnas.errors import LbgnasError, unknown
from lbgnas.fairness.definitions import SIGNED, USES, Method, macro, measure
from lbgnas.fairness.rates import Counts, count, gather, rates
from lbgnas.fairness.samples import Group, Positive, Samples, plain, positive_set, read, read_pair, read_weights

_WORDS = {"selection": "selection rate", "tpr": "true-positive rate", "fpr": "false-positive rate"}


class UndefinedRateWarning(UserWarning):
    """A group had no sample of the kind a rate needs, so a metric left it out or is NaN."""


class Metric(Protocol):
    """A metric between groups; never negative."""

    def __call__(
        self,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        *,
        sensitive_features: object,
        method: Method = "between_groups",
        sample_weight: ArrayLike | None = None,
        pos_label: Positive | None = None,
    ) -> float:
        """Return the metric, NaN where it is undefined."""


class SignedMetric(Protocol):
    """A metric that is signed where a privileged group is named."""

    def __call__(
        self,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        *,
        sensitive_features: object,
        method: Method = "between_groups",
        sample_weight: ArrayLike | None = None,
        pos_label: Positive | None = None,
        privileged: Group | None = None,
    ) -> float:
        """Return the metric, NaN where it is undefined."""


def columns_of(samples: Samples, pos_label: Positive | None) -> list[list[int]]:
    """Return the sets of labels to be taken as positive, one after the other.

    Raises:
        LbgnasError: a label that does not occur, or none given where it is not clear which of two is meant.
    """
    seen = np.union1d(samples.y, samples.p).tolist()
    if pos_label is not None:
        chosen = positive_set(pos_label)
        if len(seen) > 1 and not set(chosen) & set(seen):
            raise unknown("label", pos_label, map(str, seen), "pos_label")
        return [chosen]
    if len(seen) > 2:
        return [[label] for label in seen]
    if set(seen) <= {0, 1} or set(seen) <= {-1, 1}:
        return [[1]]
    raise LbgnasError(f"pos_label: needed for the labels {', '.join(map(str, seen))}; say which is the positive one")


def privileged_code(samples: Samples, privileged: Group) -> int:
    """Return the number of the privileged group."""
    group = plain(privileged)
    if group not in samples.groups:
        raise unknown("group", group, [str(name) for name in samples.groups], "privileged")
    return samples.groups.index(group)


def _value(name: str, samples: Samples, pos_label: Positive | None, privileged: Group | None, method: Method) -> float:
    if method not in ("between_groups", "to_overall"):
        raise unknown("method", method, ["between_groups", "to_overall"])
    columns = columns_of(samples, pos_label)
    counts = count(gather(samples), columns)
    code = None if privileged is None else privileged_code(samples, privileged)
    groups, shown = samples.groups, counts
    if code is not None:
        groups, shown = (f"not {privileged}", str(privileged)), counts.against(code)
    _warn(name, shown, columns, groups)
    return float(macro(measure(counts, code, method)[name]))


def _warn(name: str, counts: Counts, columns: list[list[int]], groups: tuple[Group, ...]) -> None:
    found = rates(counts)
    for rate in USES[name]:
        for labels, values in zip(columns, getattr(found, rate), strict=True):
            missing = [str(group) for group, value in zip(groups, values, strict=True) if np.isnan(value)]
            of = f" for label {labels[0]}" if len(columns) > 1 else ""
            if missing:
                text = f"{name}: the {_WORDS[rate]}{of} of group {', '.join(missing)} is undefined (no samples for it)"
            elif len(groups) < 2 and not name.startswith("max_"):
                text = f"{name}: only one group, so there is no gap and the result is NaN"
            else:
                continue
            warnings.warn(text, UndefinedRateWarning, stacklevel=4)


def _between(name: str, about: str) -> Metric:
    def metric(
        y_true: ArrayLike,
        y_pred: ArrayLike,
        *,
        sensitive_features: object,
        method: Method = "between_groups",
        sample_weight: ArrayLike | None = None,
        pos_label: Positive | None = None,
    ) -> float:
        if sensitive_features is None and name in ("tprd", "max_fnr"):
            return _recall(name, y_true, y_pred, sample_weight)
        samples = read(y_true, y_pred, sensitive_features, sample_weight=sample_weight)
        return _value(name, samples, pos_label, None, method)

    metric.__name__ = metric.__qualname__ = name
    metric.__doc__ = f"{about}\n\nArguments: see the module."
    return metric


def _signed(name: str, about: str) -> SignedMetric:
    def metric(
        y_true: ArrayLike,
        y_pred: ArrayLike,
        *,
        sensitive_features: object,
        method: Method = "between_groups",
        sample_weight: ArrayLike | None = None,
        pos_label: Positive | None = None,
        privileged: Group | None = None,
    ) -> float:
        samples = read(y_true, y_pred, sensitive_features, sample_weight=sample_weight)
        return _value(name, samples, pos_label, privileged, method)

    metric.__name__ = metric.__qualname__ = name
    metric.__doc__ = f"{about}\n\nArguments: see the module."
    assert name in SIGNED
    return metric


def _recall(name: str, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None) -> float:
    """Return tprd or max_fnr with each class as its own group: a := y, so that TPR_a is the recall of a class."""
    y, p = read_pair(y_true, y_pred)
    samples = Samples(y, p, np.zeros_like(y), (0,), read_weights(sample_weight, len(y)), 0)
    labels = np.unique(y).tolist()
    by_class = count(gather(samples), [[label] for label in labels])
    hits, positive = (part.swapaxes(-1, -2) for part in (by_class.hits, by_class.positive))
    counts = Counts(positive, positive, hits, hits)
    _warn(name, counts, [labels], tuple(labels))
    return float(measure(counts)[name][0])


dp = _between("dp", "Demographic parity difference: max_a sel_a - min_a sel_a, in [0, 1].")
spd = _signed("spd", "Statistical parity difference: sel_unprivileged - sel_privileged, in [-1, 1]; else dp.")
eod = _signed("eod", "Equal *opportunity* difference: TPR_unprivileged - TPR_privileged, in [-1, 1]; else tprd.")
aod = _signed(
    "aod",
    "Average odds difference: ((FPR_u - FPR_p) + (TPR_u - TPR_p)) / 2, in [-1, 1]; else the gap of (TPR + FPR) / 2.\n\n"
    "Opposite signs cancel: 0 does not mean fair, see abs_aod.",
)
abs_aod = _between("abs_aod", "Average absolute odds difference: (gap TPR + gap FPR) / 2, in [0, 1].")
deo_sum = _between("deo_sum", "Difference of equalized odds, summed: gap TPR + gap FPR, in [0, 2].")
deo_max = _between("deo_max", "Difference of equalized odds: max(gap TPR, gap FPR), in [0, 1]; NaN if either is.")
deo_opp = _between("deo_opp", "Difference of equal opportunity: gap of FNR, in [0, 1]; equal to tprd.")
tprd = _between(
    "tprd",
    "True-positive-rate difference: max_a TPR_a - min_a TPR_a, in [0, 1].\n\n"
    "`sensitive_features=None` makes each class its own group: the gap of per-class recall.",
)
max_fnr = _between(
    "max_fnr", "Worst false-negative rate: max_a (1 - TPR_a), in [0, 1]; None as in tprd: 1 - the worst recall."
)
fprd = _between("fprd", "False-positive-rate difference: max_a FPR_a - min_a FPR_a, in [0, 1].")
max_fpr = _between("max_fpr", "Worst false-positive rate: max_a FPR_a, in [0, 1].")
