"""How differently scores are distributed in two groups that should be scored alike."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike

from lbgnas.errors import LbgnasError
from lbgnas.fairness.samples import Floats, Group, Positive, positive_set, read_groups, read_labels

_FLOOR = 1e-6


@dataclass(frozen=True)
class Divergence:
    """Kullback-Leibler divergences of scores between groups, in nats.

    Attributes:
        values: (whether the label is positive, group, other group) -> D(group || other); NaN where one of the two
            has no sample of that label.
        mean: over the defined values; NaN without any.
        median, spread: over the values of all resamples, as the slides of GAN debiasing print them; None without.
    """

    values: dict[tuple[bool, Group, Group], float]
    mean: float
    median: float | None
    spread: float | None


def kl_score_divergence(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    sensitive_features: object,
    pos_label: Positive = 1,
    bins: int = 50,
    sigma: float = 1.0,
    n_boot: int = 0,
    random_state: int = 0,
    own_ranges: bool = False,
) -> Divergence:
    """Compare the distributions of scores between groups, separately for positive and negative labels.

    For each label and each ordered pair of groups: histograms of the scores over the same `bins` of [0, 1],
    smoothed by a Gaussian, plus 1e-6, normalised; D(p || q) = sum p log(p / q). After Ramaswamy et al. (2021,
    arXiv:2012.01469), whose code takes each histogram over its own range, so that it does not see shifts and
    scales.

    Args:
        y_true: integer labels (N,).
        y_score: probability of the positive label (N,), in [0, 1].
        sensitive_features: as for the metrics.
        pos_label: the positive label, or several.
        bins, sigma: number of bins, and width of the Gaussian in bins.
        n_boot, random_state: resamples for median and spread, and their seed.
        own_ranges: each histogram over its own range, for comparison with published values.

    Raises:
        LbgnasError: scores outside [0, 1] or not finite, and what the metrics refuse.

    Example:
        >>> same = kl_score_divergence([0, 0, 1, 1], [0.1, 0.1, 0.9, 0.9], sensitive_features=[0, 1, 0, 1])
        >>> same.mean
        0.0
    """
    y = np.isin(read_labels(y_true, "y_true"), positive_set(pos_label))
    scores = np.asarray(y_score, dtype=np.float64)
    if scores.shape != y.shape:
        raise LbgnasError(f"y_score: shape {scores.shape} for {len(y)} in y_true; one number per sample is needed")
    wrong = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
    if wrong.size:
        raise LbgnasError(f"y_score: {scores[wrong[0]]} at index {wrong[0]}; allowed are probabilities, 0 to 1")
    codes, groups = read_groups(sensitive_features, len(y))

    def values(rows: np.ndarray) -> dict[tuple[bool, Group, Group], float]:
        drawn = {
            (positive, code): _histogram(
                scores[rows][(y[rows] == positive) & (codes[rows] == code)], bins, sigma, own_ranges
            )
            for positive in (False, True)
            for code in range(len(groups))
        }
        return {
            (positive, groups[a], groups[b]): _kl(drawn[positive, a], drawn[positive, b])
            for positive in (False, True)
            for a, b in permutations(range(len(groups)), 2)
        }

    found = values(np.arange(len(y)))
    defined = [value for value in found.values() if not np.isnan(value)]
    median = spread = None
    if n_boot:
        draw = np.random.default_rng(random_state)
        pooled = np.array([list(values(draw.integers(len(y), size=len(y))).values()) for _ in range(n_boot)])
        drawn = pooled[~np.isnan(pooled)]
        median, spread = (float(np.median(drawn)), float(np.std(drawn))) if drawn.size else (float("nan"),) * 2
    return Divergence(found, float(np.mean(defined)) if defined else float("nan"), median, spread)


def _histogram(scores: Floats, bins: int, sigma: float, own_range: bool) -> Floats | None:
    from scipy.ndimage import gaussian_filter1d

    if not scores.size:
        return None
    heights, _ = np.histogram(scores, bins, None if own_range else (0.0, 1.0))
    smooth = gaussian_filter1d(heights.astype(np.float64), sigma)
    smooth = smooth / smooth.sum() + _FLOOR
    result: Floats = smooth / smooth.sum()
    return result


def _kl(p: Floats | None, q: Floats | None) -> float:
    return float("nan") if p is None or q is None else float((p * np.log(p / q)).sum())
