"""Weights, comparison to the overall rate, several labels, intervals and scores, against fairlearn and plain loops."""

import math

import numpy as np
import pytest

import lbgnas.fairness as m
from lbgnas.errors import LbgnasError
from lbgnas.fairness.bootstrap import resampled
from lbgnas.fairness.definitions import USES
from lbgnas.fairness.rates import gather
from lbgnas.fairness.samples import read
from tests.unit.test_fairness import A, P, Y, close, random_case

SIGNED = ("spd", "eod", "aod")


def rate(values, weight):
    return (values * weight).sum() / weight.sum()


def by_hand(name, y, p, a, weight, method):
    """One metric of binary labels by a loop over groups."""

    def three(rows):
        w = weight[rows]
        pos, neg = (rows & (y == v) for v in (1, 0))
        return rate(p[rows], w), rate(p[pos], weight[pos]), rate(p[neg], weight[neg])

    every = np.array([three(a == g) for g in np.unique(a)])
    overall = np.array(three(np.ones(len(y), bool)))

    def gap(of):
        values = np.array([of(*row) for row in every])
        return np.abs(values - of(*overall)).max() if method == "to_overall" else values.max() - values.min()

    sel, tpr, fpr = (gap(lambda *row, k=k: row[k]) for k in range(3))
    return {
        "dp": sel,
        "spd": sel,
        "eod": tpr,
        "aod": gap(lambda s, t, f: (t + f) / 2),
        "abs_aod": (tpr + fpr) / 2,
        "deo_sum": tpr + fpr,
        "deo_max": max(tpr, fpr),
        "deo_opp": tpr,
        "tprd": tpr,
        "max_fnr": 1 - every[:, 1].min(),
        "fprd": fpr,
        "max_fpr": every[:, 2].max(),
    }[name]


@pytest.mark.parametrize("method", ["between_groups", "to_overall"])
@pytest.mark.parametrize("name", USES)
def test_weights_and_methods_against_a_loop(name, method):
    y, p, a = random_case(21)
    weight = np.random.default_rng(2).random(len(y)) * 1e-6
    value = getattr(m, name)(y, p, sensitive_features=a, sample_weight=weight, method=method)
    assert close(value, by_hand(name, y, p, a, weight, method))
    plain = getattr(m, name)(y, p, sensitive_features=a, method=method)
    assert close(plain, by_hand(name, y, p, a, np.ones(len(y)), method))
    assert value != plain


@pytest.mark.parametrize("method", ["between_groups", "to_overall"])
def test_weights_and_methods_against_fairlearn(method):
    fl = pytest.importorskip("fairlearn.metrics")
    y, p, a = random_case(22)
    weight = np.random.default_rng(3).random(len(y))
    told = {"sensitive_features": a, "sample_weight": weight, "method": method}
    assert close(m.dp(y, p, **told), fl.demographic_parity_difference(y, p, **told))
    assert close(m.deo_max(y, p, **told), fl.equalized_odds_difference(y, p, **told))
    assert close(m.abs_aod(y, p, **told), fl.equalized_odds_difference(y, p, agg="mean", **told))
    assert close(m.deo_opp(y, p, **told), fl.equal_opportunity_difference(y, p, **told))


def test_whole_weights_are_repetitions():
    y, p, a = random_case(23, size=60)
    weight = np.random.default_rng(4).integers(0, 4, 60)
    again = [np.repeat(part, weight) for part in (y, p, a)]
    for name in (*USES, "worst_group_accuracy"):
        metric = getattr(m, name)
        assert close(
            metric(y, p, sensitive_features=a, sample_weight=weight), metric(*again[:2], sensitive_features=again[2])
        )
    assert close(m.accuracy(y, p, sample_weight=weight), m.accuracy(*again[:2]))


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1.0] * 7, "sample_weight: float64 of shape"),
        ([1.0] * 7 + [-1], "sample_weight: -1.0 at index 7"),
        ([1.0] * 7 + [math.nan], "sample_weight: nan at index 7"),
        ([0.0] * 8, "all weights are 0"),
        (["a"] * 8, "8 numbers are needed"),
    ],
)
def test_bad_weights(weight, message):
    with pytest.raises(LbgnasError, match=message):
        m.dp(Y, P, sensitive_features=A, sample_weight=weight)


def test_unknown_method():
    with pytest.raises(LbgnasError, match="unknown method 'to_all'"):
        m.dp(Y, P, sensitive_features=A, method="to_all")


# ---- several labels


@pytest.mark.parametrize("name", USES)
def test_functions_of_several_labels_are_macro_means(name):
    y, p, a = random_case(24, labels=4)
    more = {"privileged": 1} if name in SIGNED else {}
    parts = [getattr(m, name)(y, p, sensitive_features=a, pos_label=c, **more) for c in range(4)]
    assert close(getattr(m, name)(y, p, sensitive_features=a, **more), np.mean(np.abs(parts)))


def test_undefined_label_is_named_and_left_out():
    y, p, a = [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0], [0, 1, 0, 1, 0, 0]
    with pytest.warns(m.UndefinedRateWarning, match="true-positive rate for label 2 of group 1"):
        assert m.tprd(y, p, sensitive_features=a) == pytest.approx(0.5)


def test_the_positive_one_of_two_other_labels_must_be_said():
    y, p = [3, 5, 3, 5], [3, 3, 3, 5]
    with pytest.raises(LbgnasError, match="pos_label: needed for the labels 3, 5"):
        m.dp(y, p, sensitive_features=[0, 0, 1, 1])
    assert m.dp(y, p, sensitive_features=[0, 0, 1, 1], pos_label=5) == 0.5


def test_error_is_in_per_cent():
    assert m.error(Y, P) == 25


def test_shifted_accuracy_by_hand():
    y, p, a = random_case(25)
    draw = np.random.default_rng(5).dirichlet(np.ones(6))
    shares = {(label, group): draw[3 * label + group] for label in (0, 1) for group in range(3)}
    want = sum(share * (p == y)[(y == label) & (a == group)].mean() for (label, group), share in shares.items())
    assert close(m.shifted_accuracy(y, p, sensitive_features=a, shares=shares), want)
    with pytest.raises(LbgnasError, match="shares: add up to"):
        m.shifted_accuracy(y, p, sensitive_features=a, shares={(0, 0): 0.5})
    with pytest.raises(LbgnasError, match=r"shares: cell \(7, 0\) has no samples"):
        m.shifted_accuracy(y, p, sensitive_features=a, shares={(0, 0): 0.5, (7, 0): 0.5})


# ---- intervals


def test_intervals_are_those_of_drawn_samples():
    y, p, a = random_case(26, labels=3, size=120)
    report = m.fairness_report(y, p, sensitive_features=a, n_boot=1500)
    draw = np.random.default_rng(1)
    values = {name: [] for name in ("dp", "deo_sum", "accuracy", "worst_group_accuracy")}
    for _ in range(250):
        rows = draw.integers(120, size=120)
        drawn = m.fairness_report(y[rows], p[rows], sensitive_features=a[rows])
        for name, seen in values.items():
            seen.append(drawn.accuracy if name == "accuracy" else drawn.metrics[name])
    for name, seen in values.items():
        low, high = np.quantile(seen, [0.025, 0.975])
        slack = 0.3 * (high - low)
        assert abs(report.intervals[name].low - low) < slack
        assert abs(report.intervals[name].high - high) < slack


def test_interval_of_a_share_is_binomial():
    y = np.zeros(500, int)
    p = (np.arange(500) < 150).astype(int)
    report = m.fairness_report(y, p, sensitive_features=np.arange(500) % 2, n_boot=4000, ci_quantiles=(0.1587, 0.8413))
    found = report.intervals["accuracy"]
    assert (found.high - found.low) / 2 == pytest.approx(math.sqrt(0.7 * 0.3 / 500), rel=0.06)


def test_intervals_repeat_and_depend_on_their_seed_and_ends():
    y, p, a = random_case(27, size=80)

    def interval(**more):
        return m.fairness_report(y, p, sensitive_features=a, n_boot=200, **more).intervals["dp"]

    assert interval() == interval()
    assert interval() != interval(random_state=1)
    wide, narrow = interval(), interval(ci_quantiles=(0.25, 0.75))
    assert wide.low < narrow.low < narrow.high < wide.high
    with pytest.raises(LbgnasError, match="ci_quantiles"):
        interval(ci_quantiles=(0.9, 0.1))


def test_resamples_keep_the_number_of_samples():
    weights = resampled(gather(read(*random_case(28))), 50, 0)
    assert (weights.sum(1) == 300).all()


def test_undefined_resamples_are_counted_and_told():
    y, p, a = [0, 0, 0, 1, 0, 1, 1, 1], [0, 0, 0, 1, 0, 1, 1, 0], [0] * 4 + [1] * 4
    report = m.fairness_report(y, p, sensitive_features=a, n_boot=200)
    found = report.intervals["tprd"]
    assert 0 < found.defined < 200
    assert any("undefined: " in note and "tprd" in note for note in report.notes())
    none = m.fairness_report([1, 0, 0, 0], [1, 1, 0, 1], sensitive_features=[0, 0, 1, 1], n_boot=20).intervals["tprd"]
    assert math.isnan(none.low)
    assert none.defined == 0


# ---- scores


def test_divergence_by_hand():
    draw = np.random.default_rng(6)
    y, a = draw.integers(0, 2, 400), draw.integers(0, 3, 400)
    scores = draw.beta(2 + a, 3)
    found = m.kl_score_divergence(y, scores, sensitive_features=a)

    def smooth(values):
        heights = np.zeros(50)
        for value in values:
            heights[min(int(value * 50), 49)] += 1
        offsets = np.arange(-4, 5)
        kernel = np.exp(-(offsets**2) / 2)
        kernel /= kernel.sum()
        # The rim is mirrored: d c b a | a b c d.
        padded = np.concatenate([heights[3::-1], heights, heights[:-5:-1]])
        heights = np.array([(padded[k : k + 9] * kernel).sum() for k in range(50)])
        heights = heights / heights.sum() + 1e-6
        return heights / heights.sum()

    assert len(found.values) == 12
    for (positive, one, other), value in found.values.items():
        p, q = (smooth(scores[(y == positive) & (a == group)]) for group in (one, other))
        assert value == pytest.approx((p * np.log(p / q)).sum(), rel=1e-6)
    assert found.mean == pytest.approx(np.mean(list(found.values.values())))
    assert (found.median, found.spread) == (None, None)


def test_divergence_sees_shifts_unlike_the_published_form():
    draw = np.random.default_rng(7)
    low, y, a = draw.random(2000) / 10, np.zeros(2000, int), np.arange(2000) % 2
    shifted = low + 0.9 * a
    common = m.kl_score_divergence(y, shifted, sensitive_features=a)
    own = m.kl_score_divergence(y, shifted, sensitive_features=a, own_ranges=True)
    assert common.values[False, 0, 1] > 10
    assert own.values[False, 0, 1] < 0.1
    assert math.isnan(common.values[True, 0, 1])


def test_divergence_resamples_and_bad_scores():
    y, _, a = random_case(29, groups=2, size=60)
    told = {"sensitive_features": a, "n_boot": 20}
    scores = np.random.default_rng(8).random(60)
    once, again = m.kl_score_divergence(y, scores, **told), m.kl_score_divergence(y, scores, **told)
    assert once == again
    assert once.median > 0
    assert once.spread > 0
    for bad, message in ((scores + 1, "at index 0; allowed are probabilities"), (scores[1:], "y_score: shape")):
        with pytest.raises(LbgnasError, match=message):
            m.kl_score_divergence(y, bad, sensitive_features=a)
