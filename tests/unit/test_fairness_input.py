"""What the fairness metrics take, what they refuse in a sentence, and what the report prints."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import lbgnas.fairness as m
from lbgnas.errors import LbgnasError
from lbgnas.fairness.report import fairness_report
from tests.fairness_cases import GOLDEN, A, P, Y, random_case

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
