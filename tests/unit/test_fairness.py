"""The fairness metrics against a golden example, fairlearn, plain loops, and data too thin to tell."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lbgnas.fairness as m
from lbgnas.fairness.rates import count, gather, rates
from lbgnas.fairness.report import fairness_report
from lbgnas.fairness.samples import read
from tests.fairness_cases import GAPS, GOLDEN, RATED, A, P, Y, close, quiet, random_case, samples

# ---- values


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_example(name):
    assert getattr(m, name)(Y, P, sensitive_features=A) == pytest.approx(GOLDEN[name])
    assert fairness_report(Y, P, sensitive_features=A).metrics[name] == pytest.approx(GOLDEN[name])


def test_golden_example_signed():
    signed = {"spd": -0.25, "eod": -0.5, "aod": 0.0}
    for name, value in signed.items():
        assert close(getattr(m, name)(Y, P, sensitive_features=A, privileged="b"), value)
        assert close(getattr(m, name)(Y, P, sensitive_features=A, privileged="a"), -value)
    report = fairness_report(Y, P, sensitive_features=A, privileged="b")
    assert {name: report.metrics[name] for name in signed} == pytest.approx(signed)
    assert report.metrics["dp"] == pytest.approx(0.25)
    assert report.privileged == "b"


def test_golden_rates():
    samples = read(Y, P, A)
    got = rates(count(gather(samples), [[1]]))
    assert samples.groups == ("a", "b")
    assert [got.selection[0].tolist(), got.tpr[0].tolist(), got.fpr[0].tolist()] == [
        [0.5, 0.75],
        [0.5, 1.0],
        [0.5, 0.0],
    ]


def test_max_and_sum_differ_when_the_two_gaps_do():
    y, p, a = [1, 1, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 0, 0, 0], [0] * 6 + [1] * 2
    values = {name: getattr(m, name)(y, p, sensitive_features=a) for name in ("tprd", "fprd", "deo_max")}
    assert values == pytest.approx({"tprd": 1.0, "fprd": 0.25, "deo_max": 1.0})
    assert m.deo_sum(y, p, sensitive_features=a) == pytest.approx(1.25)
    assert m.abs_aod(y, p, sensitive_features=a) == pytest.approx(0.625)
    assert m.aod(y, p, sensitive_features=a, privileged=0) == pytest.approx(-0.625)


def test_signed_metrics_pool_all_other_groups():
    y, p, a = random_case(3)
    other = a != 1
    assert close(m.spd(y, p, sensitive_features=a, privileged=1), p[other].mean() - p[~other].mean())
    want = p[other & (y == 1)].mean() - p[~other & (y == 1)].mean()
    assert close(m.eod(y, p, sensitive_features=a, privileged=1), want)
    assert close(
        m.aod(y, p, sensitive_features=a, privileged=1),
        (want + p[other & (y == 0)].mean() - p[~other & (y == 0)].mean()) / 2,
    )


def test_accuracy_and_error():
    assert m.accuracy(Y, P) == 0.75
    report = fairness_report(Y, P, sensitive_features=A)
    assert (report.accuracy, report.error) == (0.75, 25.0)


def test_worst_group_is_over_label_and_attribute():
    y, p, a = [0, 0, 0, 1, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1], [0] * 4 + [1] * 4
    assert m.worst_group_accuracy(y, p, sensitive_features=a) == 0.0
    y, p, a = random_case(5, labels=4)
    loop = min((p[c] == y[c]).mean() for c in ((y == k) & (a == g) for k in range(4) for g in range(3)))
    assert close(m.worst_group_accuracy(y, p, sensitive_features=a), loop)
    assert close(fairness_report(y, p, sensitive_features=a).metrics["worst_group_accuracy"], loop)


def test_class_as_group():
    y, p = [0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 2, 0]
    assert m.tprd(y, p, sensitive_features=None) == pytest.approx(0.5)
    assert m.max_fnr(y, p, sensitive_features=None) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_fairlearn(seed):
    fl = pytest.importorskip("fairlearn.metrics")
    from sklearn.metrics import accuracy_score

    y, p, a = random_case(seed, groups=2 + seed % 3)

    def both(ours, theirs, **more):
        assert close(ours(y, p, sensitive_features=a), theirs(y, p, sensitive_features=a, **more))

    def worst(metric):
        return lambda y, p, sensitive_features: fl.MetricFrame(
            metrics=metric, y_true=y, y_pred=p, sensitive_features=sensitive_features
        ).group_max()

    both(m.dp, fl.demographic_parity_difference)
    both(m.deo_max, fl.equalized_odds_difference)
    both(m.abs_aod, fl.equalized_odds_difference, agg="mean")
    both(m.deo_opp, fl.equal_opportunity_difference)
    both(m.eod, fl.equal_opportunity_difference)
    both(m.tprd, fl.true_positive_rate_difference)
    both(m.fprd, fl.false_positive_rate_difference)
    both(m.max_fnr, worst(fl.false_negative_rate))
    both(m.max_fpr, worst(fl.false_positive_rate))
    odds = fl.equalized_odds_difference(y, p, sensitive_features=a, agg="mean")
    assert close(m.deo_sum(y, p, sensitive_features=a), 2 * odds)
    cells = fl.MetricFrame(metrics=accuracy_score, y_true=y, y_pred=p, sensitive_features={"y": y, "a": a}).group_min()
    assert close(m.worst_group_accuracy(y, p, sensitive_features=a), cells)


# ---- properties


@settings(max_examples=40, deadline=None)
@given(samples(), st.permutations(range(3)))
def test_unsigned_metrics_ignore_group_names_and_sample_order(case, names):
    y, p, a = case
    renamed = np.array([f"g{names[k]}" for k in a])
    order = np.random.default_rng(0).permutation(len(y))
    for name in GOLDEN:
        metric = quiet(getattr(m, name))
        value = metric(y, p, sensitive_features=a)
        assert close(metric(y, p, sensitive_features=renamed), value)
        assert close(metric(y[order], p[order], sensitive_features=a[order]), value)
        assert math.isnan(value) or 0 <= value <= (2 if name == "deo_sum" else 1)


@settings(max_examples=40, deadline=None)
@given(samples(groups=2).filter(lambda case: len(set(case[2])) == 2))
def test_swapping_the_privileged_group_flips_the_sign(case):
    y, p, a = case
    for name in ("spd", "eod", "aod"):
        metric = quiet(getattr(m, name))
        ones, zeros = (metric(y, p, sensitive_features=a, privileged=k) for k in (1, 0))
        assert close(ones, -zeros)
        assert close(metric(y, p, sensitive_features=a), abs(ones))
    assert close(quiet(m.spd)(y, p, sensitive_features=a), quiet(m.dp)(y, p, sensitive_features=a))


@settings(max_examples=40, deadline=None)
@given(samples())
def test_negating_labels_swaps_the_rates(case):
    y, p, a = case
    tprd, fprd = quiet(m.tprd), quiet(m.fprd)
    assert close(tprd(1 - y, 1 - p, sensitive_features=a, pos_label=0), tprd(y, p, sensitive_features=a, pos_label=1))
    assert close(tprd(1 - y, 1 - p, sensitive_features=a), fprd(y, p, sensitive_features=a))


@settings(max_examples=40, deadline=None)
@given(samples(labels=3))
def test_report_always_accounts_for_every_sample(case):
    y, p, a = case
    report = fairness_report(y, p, sensitive_features=a, label_names=["x", "y", "z"], attribute_names=["r", "s", "t"])
    assert len(report.cells) == 9
    assert sum(cell.count for cell in report.cells) == report.samples == len(y)
    assert close(sum(c.count * c.accuracy for c in report.cells if c.count), report.accuracy * len(y))
    for cell in report.cells:
        assert math.isnan(cell.accuracy) == (cell.count == 0)
        if not cell.count:
            assert any(f"roup {cell.attribute_name} " in text for text in report.undefined)
    assert any(map(math.isnan, report.metrics.values())) <= bool(report.undefined)
    assert report.collapsed == (len(set(p.tolist())) == 1)


def test_perfect_prediction_has_no_odds_gap_but_may_have_a_parity_gap():
    y, a = [1, 1, 0, 1, 0, 0], [0, 0, 0, 1, 1, 1]
    metrics = fairness_report(y, y, sensitive_features=a).metrics
    assert metrics["dp"] == pytest.approx(1 / 3)
    assert (metrics["deo_sum"], metrics["max_fnr"], metrics["worst_group_accuracy"]) == (0, 0, 1)


# ---- data too thin


@pytest.mark.parametrize("name", GAPS)
def test_single_group_is_nan_never_zero(name):
    with pytest.warns(m.UndefinedRateWarning, match="only one group"):
        assert math.isnan(getattr(m, name)(Y, P, sensitive_features=["a"] * 8))
    report = fairness_report(Y, P, sensitive_features=["a"] * 8)
    assert math.isnan(report.metrics[name])
    assert any("Only one group" in text for text in report.undefined)
    assert any(name in text for text in report.undefined)


def test_single_group_with_itself_privileged_is_nan():
    with pytest.warns(m.UndefinedRateWarning):
        assert math.isnan(m.spd(Y, P, sensitive_features=["a"] * 8, privileged="a"))


def test_group_without_positives_is_left_out_and_named():
    y, p, a = [1, 1, 1, 0, 0, 1, 0, 0, 0], [1, 1, 0, 0, 1, 1, 0, 1, 0], [0] * 4 + [1] * 2 + [2] * 3
    with pytest.warns(m.UndefinedRateWarning, match="true-positive rate of group 2"):
        value = m.tprd(y, p, sensitive_features=a)
    assert value == pytest.approx(1 - 2 / 3)
    report = fairness_report(y, p, sensitive_features=a)
    assert report.metrics["tprd"] == pytest.approx(1 / 3)
    empty = [cell for cell in report.cells if not cell.count]
    assert [(cell.label, cell.attribute) for cell in empty] == [(1, 2)]
    assert math.isnan(empty[0].accuracy)
    assert math.isnan(empty[0].predicted_positive_rate)
    assert report.undefined == (
        "None of the 3 samples of group 2 has label 1, so its true-positive rate is undefined.",
    )


def test_fewer_than_two_defined_groups_is_nan():
    y, p, a = [1, 0, 0, 0], [1, 1, 0, 1], [0, 0, 1, 1]
    report = fairness_report(y, p, sensitive_features=a)
    lost = {name for name, value in report.metrics.items() if math.isnan(value)}
    assert lost == {"eod", "aod", "abs_aod", "deo_sum", "deo_max", "deo_opp", "tprd"}
    assert report.metrics["fprd"] == 0.5
    assert report.metrics["max_fnr"] == 0
    for name in lost:
        with pytest.warns(m.UndefinedRateWarning):
            assert math.isnan(getattr(m, name)(y, p, sensitive_features=a))


def test_no_negatives_at_all():
    report = fairness_report([1, 1, 1], [1, 0, 1], sensitive_features=[0, 1, 1])
    assert math.isnan(report.metrics["fprd"])
    assert math.isnan(report.metrics["max_fpr"])
    assert report.metrics["tprd"] == 0.5
    assert sum("false-positive rate" in text for text in report.undefined) == 2
    assert [cell.label for cell in report.cells] == [0, 0, 1, 1]


def test_named_groups_and_labels_that_never_occur_are_listed():
    report = fairness_report(
        [0, 1, 1], [0, 1, 1], sensitive_features=[0, 0, 1], attribute_names=["red", "green", "blue"]
    )
    assert "Group blue has 0 samples, so all of its rates are undefined." in report.undefined
    assert [c.count for c in report.cells if c.attribute_name == "blue"] == [0, 0]
    assert report.metrics["dp"] == 0.5


def test_empty_intersection_of_two_attributes_is_listed():
    columns = {"colour": [0, 0, 1, 1], "shape": ["o", "x", "o", "o"]}
    report = fairness_report([1, 0, 1, 0], [1, 0, 1, 1], sensitive_features=columns)
    assert "Group 1 & x has 0 samples, so all of its rates are undefined." in report.undefined
    rows = np.array([[0, 5], [0, 7], [1, 5], [1, 5]])
    again = fairness_report([1, 0, 1, 0], [1, 0, 1, 1], sensitive_features=rows)
    assert again.metrics == pytest.approx(report.metrics, nan_ok=True)
    assert again.cells[0].attribute == (0, 5)
    with pytest.warns(m.UndefinedRateWarning, match=r"selection rate of group \(1, 'x'\)"):
        assert m.dp([1, 0, 1, 0], [1, 0, 1, 1], sensitive_features=columns) == 1


@pytest.mark.parametrize("missing", [None, math.nan, -1, -1.0, np.nan])
def test_missing_sensitive_values_are_dropped_and_counted(missing):
    a = [0] * 4 + [1] * 4
    report = fairness_report([*Y, 1, 0], [*P, 0, 1], sensitive_features=[*a, missing, missing])
    assert (report.dropped, report.samples) == (2, 8)
    assert report.metrics == pytest.approx(GOLDEN)
    assert report.accuracy == 0.75
    assert "2 dropped" in report.to_markdown()
    assert m.dp([*Y, 1], [*P, 0], sensitive_features=[*a, missing]) == 0.25


def test_missing_values_among_strings_and_in_one_of_two_columns():
    assert fairness_report([*Y, 1], [*P, 0], sensitive_features=[*A, math.nan]).dropped == 1
    pairs = [(name, 0) for name in A] + [("a", None)]
    report = fairness_report([*Y, 1], [*P, 0], sensitive_features=pairs)
    assert report.dropped == 1
    assert report.metrics == pytest.approx(GOLDEN)


def test_pandas_missing_values():
    pandas = pytest.importorskip("pandas")
    for dtype in (object, "string", "category"):
        a = pandas.Series([*A, None], dtype=dtype)
        assert fairness_report([*Y, 1], [*P, 0], sensitive_features=a).dropped == 1
    codes = pandas.Series([0] * 4 + [1] * 4 + [None], dtype="Int64")
    report = fairness_report(pandas.Series([*Y, 1]), pandas.Series([*P, 0]), sensitive_features=codes)
    assert report.dropped == 1
    assert report.metrics == pytest.approx(GOLDEN)


@pytest.mark.parametrize("constant", [0, 1])
def test_collapsed_prediction_is_flagged(constant):
    report = fairness_report(Y, [constant] * 8, sensitive_features=A)
    assert report.collapsed
    assert report.metrics["dp"] == report.metrics["deo_sum"] == 0
    assert report.metrics["worst_group_accuracy"] == 0
    assert "one class only" in report.to_markdown()
    sound = fairness_report(Y, P, sensitive_features=A)
    assert not sound.collapsed
    assert "one class only" not in sound.to_markdown()


# ---- more than two classes


def test_one_vs_rest_is_the_mean_of_absolute_values():
    y, p, a = random_case(11, labels=4)
    report = fairness_report(y, p, sensitive_features=a, privileged=2, label_names=list("wxyz"))
    assert list(report.per_class) == list("wxyz")
    for name in RATED:
        signed = {"privileged": 2} if name in ("spd", "eod", "aod") else {}
        parts = [getattr(m, name)(y, p, sensitive_features=a, pos_label=c, **signed) for c in range(4)]
        assert [part[name] for part in report.per_class.values()] == pytest.approx(parts)
        assert report.metrics[name] == pytest.approx(np.mean(np.abs(parts)))
    assert min(part["spd"] for part in report.per_class.values()) < 0 < report.metrics["spd"]
    assert all(math.isnan(cell.predicted_positive_rate) for cell in report.cells)


def test_function_with_pos_label_equals_the_binarised_problem():
    y, p, a = random_case(12, labels=4)
    for name in RATED:
        binary = getattr(m, name)((y == 3).astype(int), p == 3, sensitive_features=a)
        assert close(getattr(m, name)(y, p, sensitive_features=a, pos_label=3), binary)
        merged = getattr(m, name)(np.isin(y, [0, 2]), np.isin(p, [0, 2]), sensitive_features=a)
        assert close(getattr(m, name)(y, p, sensitive_features=a, pos_label={0, 2}), merged)


def test_merged_labels_report():
    y, p, a = random_case(13, labels=4)
    report = fairness_report(
        y, p, sensitive_features=a, pos_label=[0, 2], multiclass="pos_label", label_names=list("wxyz")
    )
    plain = fairness_report(np.isin(y, [0, 2]), np.isin(p, [0, 2]), sensitive_features=a)
    assert report.metrics == plain.metrics
    assert report.accuracy == plain.accuracy
    assert report.per_class == {}
    assert {cell.label_name for cell in report.cells} == {"w + y", "rest"}


def test_macro_mean_leaves_out_undefined_classes_and_says_so():
    y, p, a = [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0], [0, 1, 0, 1, 0, 0]
    report = fairness_report(y, p, sensitive_features=a)
    assert math.isnan(report.per_class["2"]["tprd"])
    assert report.metrics["tprd"] == pytest.approx((1 + 0) / 2)
    assert any("macro mean leaves out label 2" in text and "tprd" in text for text in report.undefined)
    assert any(text.startswith("None of the 2 samples of group 1 has label 2") for text in report.undefined)


def test_group_of_one_class_has_no_false_positive_rate_for_it():
    report = fairness_report([0, 1, 2, 2], [0, 1, 2, 0], sensitive_features=[0, 0, 1, 1])
    assert math.isnan(report.per_class["2"]["fprd"])
    assert any("All 2 samples of group 1 have label 2" in text for text in report.undefined)


def test_third_label_only_predicted_makes_it_multiclass():
    report = fairness_report([0, 1, 1, 0], [0, 1, 2, 0], sensitive_features=[0, 0, 1, 1])
    assert list(report.per_class) == ["0", "1", "2"]
