"""The fairness metrics against a golden example, fairlearn, plain loops, and data too thin to tell."""

import functools
import json
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lbgnas.fairness as m
from lbgnas.errors import LbgnasError
from lbgnas.fairness.rates import count, gather, rates
from lbgnas.fairness.report import fairness_report
from lbgnas.fairness.samples import read

Y = [1, 1, 0, 0, 1, 1, 1, 0]
P = [1, 0, 0, 1, 1, 1, 1, 0]
A = ["a"] * 4 + ["b"] * 4
GOLDEN = {
    "dp": 0.25,
    "spd": 0.25,
    "eod": 0.5,
    "aod": 0.0,
    "abs_aod": 0.5,
    "deo_sum": 1.0,
    "deo_max": 0.5,
    "deo_opp": 0.5,
    "tprd": 0.5,
    "max_fnr": 0.5,
    "fprd": 0.5,
    "max_fpr": 0.5,
    "worst_group_accuracy": 0.5,
}
RATED = [name for name in GOLDEN if name != "worst_group_accuracy"]
GAPS = [name for name in RATED if not name.startswith("max_")]


def close(a, b):
    return a == pytest.approx(b, abs=1e-12, nan_ok=True)


def quiet(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", m.UndefinedRateWarning)
            return function(*args, **kwargs)

    return inner


def samples(labels=2, groups=3, most=40):
    def rows(n):
        return st.tuples(
            *(
                st.lists(st.integers(0, top - 1), min_size=n, max_size=n).map(np.array)
                for top in (labels, labels, groups)
            )
        )

    return st.integers(1, most).flatmap(rows)


def random_case(seed, labels=2, groups=3, size=300):
    draw = np.random.default_rng(seed)
    return tuple(draw.integers(0, top, size) for top in (labels, labels, groups))


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


# ---- kinds of input


@pytest.mark.parametrize("kind", [np.array, torch.tensor, tuple, lambda x: [np.int64(v) for v in x]])
def test_arrays_tensors_and_sequences(kind):
    a = kind([0] * 4 + [1] * 4)
    for name in GOLDEN:
        assert getattr(m, name)(kind(Y), kind(P), sensitive_features=a) == pytest.approx(GOLDEN[name])
    assert fairness_report(kind(Y), kind(P), sensitive_features=a).metrics == pytest.approx(GOLDEN)


def test_lists_of_tensors_bools_whole_floats_and_minus_one_labels():
    tensors = [torch.tensor(v) for v in P]
    assert m.dp(torch.tensor(Y).bool(), tensors, sensitive_features=tensors) == 1
    assert m.tprd(np.array(Y, float), np.array(P, float), sensitive_features=A) == 0.5
    signs = [2 * v - 1 for v in Y], [2 * v - 1 for v in P]
    report = fairness_report(*signs, sensitive_features=A)
    assert report.metrics == pytest.approx(GOLDEN)
    assert sorted({cell.label for cell in report.cells}) == [-1, 1]


def test_sensitive_features_only_by_keyword():
    for name in GOLDEN:
        with pytest.raises(TypeError):
            getattr(m, name)(Y, P, A)


BAD = {
    "probabilities": ((Y, np.linspace(0, 1, 8), A), "y_pred: .* at index 1 is not an integer label"),
    "nan label": (([1, math.nan], [1, 0], [0, 1]), "y_true: nan at index 1"),
    "string labels": ((["p", "n"], [1, 0], [0, 1]), "y_true: .*encode them"),
    "scores (N, 2)": (([1, 0], [[0.1, 0.9], [0.8, 0.2]], [0, 1]), r"y_pred: shape \(2, 2\)"),
    "ragged": (([1, 0], [[1], [1, 0]], [0, 1]), "y_pred: cannot be read"),
    "needs grad": (([1, 0], torch.ones(2, requires_grad=True), [0, 1]), "y_pred: cannot be read"),
    "empty": (([], [], []), "y_true: empty"),
    "short prediction": ((Y, P[:-1], A), "y_pred: 7 values for 8"),
    "short attribute": ((Y, P, A[:-1]), "sensitive_features: 7 values for 8"),
    "no attribute": ((Y, P, np.zeros(0)), "sensitive_features: 0 values for 8"),
    "no column": ((Y, P, np.zeros((8, 0))), "sensitive_features: 0 values for 8"),
    "all missing": ((Y, P, [None] * 8), "all 8 values are missing"),
    "continuous attribute": ((Y, P, [0.5] * 8), "sensitive_features: 0.5 is neither"),
    "infinite attribute": ((Y, P, [math.inf] * 8), "sensitive_features: inf is neither"),
    "cube": ((Y, P, np.zeros((8, 1, 1))), r"sensitive_features: shape \(8, 1, 1\)"),
    "uneven columns": ((Y, P, {"a": A, "b": [0]}), "columns differ in length"),
    "attribute of one value": ((Y, P, "a"), "sensitive_features: shape"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case):
    (y, p, a), message = BAD[case]
    for call in (m.dp, m.worst_group_accuracy, fairness_report):
        with pytest.raises(LbgnasError, match=message) as caught:
            call(y, p, sensitive_features=a)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"pos_label": 5}, "pos_label: unknown label '5'; allowed are 0, 1"),
        ({"pos_label": "1"}, "pos_label: '1' is neither"),
        ({"pos_label": []}, "pos_label: .* is neither"),
        ({"privileged": "B"}, "privileged: unknown group 'B'; allowed are a, b"),
        ({"multiclass": "ovo"}, "unknown multiclass 'ovo'"),
        ({"label_names": ["no"]}, "label_names: unknown label '1'"),
        ({"label_names": ["no", "no"]}, "label_names: .* repeats"),
        ({"attribute_names": ["a"]}, "sensitive_features: unknown value 'b'; allowed are a"),
        ({"attribute_names": {"a": "A", "bb": "B"}}, "did you mean 'bb'"),
    ],
)
def test_bad_options_are_one_sentence(more, message):
    with pytest.raises(LbgnasError, match=message):
        fairness_report(Y, P, **{"sensitive_features": A, **more})


def test_names_of_string_groups_say_which_may_occur():
    report = fairness_report(Y, P, sensitive_features=A, attribute_names=["a", "b", "c"])
    assert [cell.attribute_name for cell in report.cells] == ["a", "b", "c"] * 2
    assert report.metrics == pytest.approx(GOLDEN)
    with pytest.raises(LbgnasError, match="cannot be read"):
        fairness_report([1], [1], sensitive_features=torch.ones(1, requires_grad=True), attribute_names=["a", "b"])


def test_bad_options_of_functions():
    with pytest.raises(LbgnasError, match="pos_label"):
        m.tprd(Y, P, sensitive_features=A, pos_label=2)
    with pytest.raises(LbgnasError, match="privileged"):
        m.aod(Y, P, sensitive_features=A, privileged="z")
    with pytest.raises(LbgnasError, match="tprd and max_fnr"):
        fairness_report(Y, P, sensitive_features=None)


# ---- what the report prints


def test_to_dict_is_strict_json_with_nan_as_none():
    report = fairness_report([1, 0, 0, 0], [1, 1, 0, 1], sensitive_features=np.array([0, 0, 1, 1]))
    back = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert back["metrics"]["tprd"] is None
    assert back["metrics"]["fprd"] == 0.5
    assert back["cells"][3]["accuracy"] is None
    assert back["cells"][0] == {
        "label": 0,
        "attribute": 0,
        "label_name": "0",
        "attribute_name": "0",
        "count": 1,
        "accuracy": 0.0,
        "predicted_positive_rate": 1.0,
    }
    assert (back["dropped"], back["collapsed"]) == (0, False)
    pairs = fairness_report(Y, P, sensitive_features=[(a, 0) for a in A])
    assert json.loads(json.dumps(pairs.to_dict(), allow_nan=False))["cells"][0]["attribute"] == ["a", 0]


def test_markdown_rows():
    report = fairness_report(
        Y, P, sensitive_features=A, label_names=["no", "yes"], attribute_names={"a": "red|r", "b": "blue"}
    )
    lines = [" ".join(line.split()) for line in report.to_markdown().splitlines()]
    assert "| dp | 0.2500 |" in lines
    assert "| accuracy | 0.7500 |" in lines
    assert "| yes | red\\|r | 2 | 0.5000 | 0.5000 |" in lines
    assert "| no | blue | 1 | 1.0000 | 0.0000 |" in lines
    undefined = fairness_report(Y, P, sensitive_features=[1] * 8).to_markdown()
    assert "| tprd | undefined |" in " ".join(undefined.split())


def test_markdown_tables_are_rectangular_with_classes():
    text = fairness_report(*random_case(1, labels=3)[:2], sensitive_features=random_case(1)[2]).to_markdown()
    for block in text.split("\n\n")[:2]:
        assert len({line.count("|") for line in block.splitlines()}) == 1
    assert "| metric | 0 | 1 | 2 | macro mean |" in " ".join(text.split())
    assert "predicted positive" not in text


def test_report_is_frozen():
    with pytest.raises(AttributeError):
        fairness_report(Y, P, sensitive_features=A).accuracy = 1.0


def test_library_needs_neither_torch_nor_sklearn():
    code = "import sys, lbgnas.fairness.report; print({'torch', 'sklearn', 'fairlearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
