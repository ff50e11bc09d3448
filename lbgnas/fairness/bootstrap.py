"""Bootstrap intervals: what the metrics would have been on other samples of the same size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lbgnas.errors import LbgnasError
from lbgnas.fairness.rates import Cells
from lbgnas.fairness.samples import Floats


@dataclass(frozen=True)
class Interval:
    """Quantiles of a metric over the resamples where it is defined, NaN if it is in none.

    Attributes:
        low, high: the quantiles.
        defined: in how many resamples the metric is defined.
    """

    low: float
    high: float
    defined: int


def resampled(cells: Cells, number: int, seed: int) -> Floats:
    """Return the cells' weights in `number` bootstrap samples, (number, J).

    N draws with replacement from N samples fall into the cells as a multinomial with the cells' shares; nothing
    else of a sample enters a metric.
    """
    total = round(float(cells.weight.sum()))
    draws = np.random.default_rng(seed).multinomial(total, cells.weight / cells.weight.sum(), size=number)
    return draws.astype(np.float64)


def intervals(values: Mapping[str, Floats], quantiles: tuple[float, float]) -> dict[str, Interval]:
    """Return the interval of every metric, given its values over resamples, (B,) each."""
    low, high = quantiles
    if not 0 <= low < high <= 1:
        raise LbgnasError(f"ci_quantiles: {quantiles} is not allowed; two rising numbers from 0 to 1 are needed")
    found = {}
    for name, drawn in values.items():
        defined = drawn[~np.isnan(drawn)]
        ends = np.quantile(defined, [low, high]).tolist() if defined.size else [float("nan")] * 2
        found[name] = Interval(ends[0], ends[1], int(defined.size))
    return found
