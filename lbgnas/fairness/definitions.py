"""The metrics of hard label predictions between groups, as formulas of the groups' rates.

Notation: y truth, p prediction, a sensitive value (the group), c the positive label;
sel_a = P(p=c | a), TPR_a = P(p=c | y=c, a), FPR_a = P(p=c | y!=c, a), FNR_a = 1 - TPR_a.
"gap" is the maximum minus the minimum over the groups where the rate is defined; fewer than two such groups
make it NaN, never 0. All values are fractions, not per cent.

With a privileged group g the three signed metrics (spd, eod, aod) are "all other groups pooled" minus "group g",
as in AIF360; without one they are the gap of the same quantity over the groups, so never negative.

"EOD" is the Equal Opportunity difference here, and there is no bare "deo": the literature uses that name for
deo_sum, deo_max and deo_opp alike.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from lbgnas.fairness.rates import Counts, gap, largest, rates, share, smallest
from lbgnas.fairness.samples import Floats

Method = Literal["between_groups", "to_overall"]

USES = {
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
"""Every metric between groups, and the rates it is made of."""

SIGNED = ("spd", "eod", "aod")


def measure(counts: Counts, privileged: int | None = None, method: Method = "between_groups") -> dict[str, Floats]:
    """Return every metric of given counts, each (..., C).

    Args:
        counts: (..., C, G).
        privileged: the group the signed metrics subtract; None for their gap.
        method: what a gap is: the maximum minus the minimum over groups, or with "to_overall" the largest
            distance from the rate of all groups together (as in fairlearn).
    """
    by_group, overall = rates(counts), rates(counts.pooled())

    def between(values: Floats, all_together: Floats) -> Floats:
        return gap(values, all_together if method == "to_overall" else None)

    tpr = between(by_group.tpr, overall.tpr)
    fpr = between(by_group.fpr, overall.fpr)
    dp = between(by_group.selection, overall.selection)
    odds = between((by_group.tpr + by_group.fpr) / 2, (overall.tpr + overall.fpr) / 2)
    spd, eod, aod = dp, tpr, odds
    if privileged is not None:
        two = rates(counts.against(privileged))
        spd, eod, aod = (
            values[..., 0] - values[..., 1] for values in (two.selection, two.tpr, (two.tpr + two.fpr) / 2)
        )
    return {
        "dp": dp,
        "spd": spd,
        "eod": eod,
        "aod": aod,
        "abs_aod": (tpr + fpr) / 2,
        "deo_sum": tpr + fpr,
        "deo_max": np.maximum(tpr, fpr),
        "deo_opp": between(1 - by_group.tpr, 1 - overall.tpr),
        "tprd": tpr,
        "max_fnr": largest(1 - by_group.tpr),
        "fprd": fpr,
        "max_fpr": largest(by_group.fpr),
    }


def macro(values: Floats) -> Floats:
    """Return the only column as it is, or mean_c |m_c| over those where it is defined; (..., C) -> (...)."""
    if values.shape[-1] == 1:
        return values[..., 0]
    defined = ~np.isnan(values)
    return share(np.where(defined, np.abs(values), 0.0).sum(-1), defined.sum(-1).astype(np.float64))


def accuracy(counts: Counts) -> Floats:
    """Return P(p = y); the columns must be all labels, one each; (..., C, G) -> (...)."""
    return share(counts.hits.sum((-2, -1)), counts.total[..., 0, :].sum(-1))


def worst_cell(counts: Counts) -> Floats:
    """Return the least P(p = y | y, a) of any label and group; the columns must be all labels; -> (...)."""
    recall = share(counts.hits, counts.positive)
    return smallest(recall.reshape(*recall.shape[:-2], -1))
