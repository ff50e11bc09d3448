"""Measures of fairness between groups: functions by name, and one report of all of them.

Example:
    >>> from lbgnas import fairness
    >>> fairness.deo_sum([1, 0, 1, 0], [1, 0, 0, 1], sensitive_features=[0, 0, 1, 1])
    2.0
"""

from lbgnas.fairness.accuracies import accuracy, error, shifted_accuracy, worst_group_accuracy
from lbgnas.fairness.divergence import kl_score_divergence
from lbgnas.fairness.metrics import (
    UndefinedRateWarning,
    abs_aod,
    aod,
    deo_max,
    deo_opp,
    deo_sum,
    dp,
    eod,
    fprd,
    max_fnr,
    max_fpr,
    spd,
    tprd,
)
from lbgnas.fairness.report import fairness_report
from lbgnas.fairness.result import FairnessReport

__all__ = [
    "FairnessReport",
    "UndefinedRateWarning",
    "abs_aod",
    "accuracy",
    "aod",
    "deo_max",
    "deo_opp",
    "deo_sum",
    "dp",
    "eod",
    "error",
    "fairness_report",
    "fprd",
    "kl_score_divergence",
    "max_fnr",
    "max_fpr",
    "shifted_accuracy",
    "spd",
    "tprd",
    "worst_group_accuracy",
]
