"""The classifier in scikit-learn's conventions."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

from lbgnas import GroupedClassifier, LbgnasError
from lbgnas.engine.plain_training import PlainTraining


def draw(count: int, seed: int = 0):
    """Images with a bright left or right half, and which it is."""
    random = np.random.default_rng(seed)
    labels = np.array(["left", "right"])[np.arange(count) % 2]
    images = 0.3 * random.random((count, 8, 8))
    images[labels == "left", :, :4] += 0.5
    images[labels == "right", :, 4:] += 0.5
    return images, labels


def small(**more) -> GroupedClassifier:
    told = {"experts": "resnet18", "width": 4, "epochs": 1, "finetune_epochs": 4, "batch_size": 20, **more}
    return GroupedClassifier(settings={"routing": {"rate": 0.01}, "finetune": {"rate": 0.05}}, **told)


@pytest.fixture(scope="module")
def fitted():
    return small().fit(*draw(80))


def test_it_learns_and_answers_by_groups(fitted):
    images, labels = draw(60, seed=1)
    probabilities, groups = fitted.predict_proba(images), fitted.predict_group(images)
    assert fitted.classes_.tolist() == ["left", "right"]
    assert probabilities.shape == (60, 2)
    assert probabilities.sum(1) == pytest.approx(np.ones(60), abs=1e-5)
    assert (fitted.predict(images) == fitted.classes_[probabilities.argmax(1)]).all()
    assert fitted.score(images, labels) > 0.9
    assert set(groups.tolist()) <= {0, 1}
    assert groups.shape == (60,)


def test_bytes_and_numbers_are_alike(fitted):
    images, _ = draw(10)
    as_bytes = (images * 255).round().astype(np.uint8)
    assert np.allclose(fitted.predict_proba(as_bytes), fitted.predict_proba(as_bytes[:, None] / 255), atol=1e-5)


def test_the_same_state_gives_the_same_classifier(fitted):
    again = clone(fitted).fit(*draw(80))
    images, _ = draw(10, seed=2)
    assert np.array_equal(again.predict_proba(images), fitted.predict_proba(images))
    assert clone(fitted).set_params(num_experts=3).get_params()["num_experts"] == 3


def test_it_takes_its_place_in_a_pipeline():
    pipeline = make_pipeline(FunctionTransformer(lambda x: np.clip(x, 0, 1)), small(method="erm", finetune_epochs=1))
    images, labels = draw(40)
    assert pipeline.fit(images, labels).predict(images).shape == (40,)
    assert not pipeline[-1].predict_group(images).any()


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((4, 8)), [0, 1, 0, 1], r"X: shape \(4, 8\)"),
        (np.zeros((4, 1, 8, 9)), [0, 1, 0, 1], r"X: shape \(4, 1, 8, 9\)"),
        (np.zeros((4, 8, 8), int), [0, 1, 0, 1], "X: int64 is not allowed"),
        (np.full((4, 8, 8), 2.0), [0, 1, 0, 1], "sample id 0 has a pixel outside 0 to 1"),
        (np.zeros((4, 8, 8)), [0, 1], r"y: shape \(2,\) for 4 images"),
        (np.zeros((4, 8, 8)), [1, 1, 1, 1], "y: holds 1 class"),
        (np.zeros((4, 8, 8)), [0.1, 0.2, 0.3, 0.4], "Unknown label type: continuous"),
    ],
)
def test_bad_arrays(images, labels, message):
    with pytest.raises(ValueError, match=message):
        small().fit(images, labels)


def test_bad_settings_and_shapes(fitted):
    with pytest.raises(LbgnasError, match=r"GroupedClassifier: .*unknown method 'lgb'"):
        small(method="lgb").fit(*draw(40))
    with pytest.raises(NotFittedError):
        small().predict(draw(4)[0])
    with pytest.raises(LbgnasError, match=r"X: images of shape \(1, 6, 6\), those in fit had \(1, 8, 8\)"):
        fitted.predict(np.zeros((2, 6, 6)))
    for wrong in (np.full((2, 8, 8), 200.0), np.full((2, 8, 8), np.nan)):
        with pytest.raises(LbgnasError, match="X: the image of sample id 0 has a pixel"):
            fitted.predict(wrong)


@pytest.mark.parametrize(
    "check",
    [
        "check_parameters_default_constructible",
        "check_no_attributes_set_in_init",
        "check_get_params_invariance",
        "check_set_params",
        "check_estimator_repr",
        "check_estimator_cloneable",
        "check_estimator_tags_renamed",
        "check_valid_tag_types",
        "check_estimators_unfitted",
        "check_mixin_order",
    ],
)
def test_scikit_learns_own_checks_that_need_no_table(check):
    getattr(estimator_checks, check)("GroupedClassifier", small())


def test_the_seed_follows_scikit_learn():
    assert small(random_state=7)._seed() == 7
    assert small(random_state=np.random.RandomState(3))._seed() == np.random.RandomState(3).randint(2**31)
    assert small(random_state=None)._seed() != small(random_state=None)._seed()


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_in_fit_is_what_python_makes_of_it(monkeypatch, number, raised):
    original = PlainTraining.step

    def step(self, *given):
        signal.raise_signal(number)
        return original(self, *given)

    monkeypatch.setattr(PlainTraining, "step", step)
    with pytest.raises(raised):
        small(method="erm").fit(*draw(40))
