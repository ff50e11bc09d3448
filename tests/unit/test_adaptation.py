from __future__ import annotations

import numpy as np
import pytest
import torch

from lbgnas.errors import LbgnasError
from lbgnas.grouping.adaptation import DISTANCES, cdd, find_distance, mmd, mmd_literal

pytestmark = pytest.mark.usefixtures("float64")


def case(seed=0, count=11, width=4, classes=3):
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(count, width, generator=g)
    membership = torch.rand(count, generator=g)
    labels = torch.arange(count) % classes
    return features, membership, labels[torch.randperm(count, generator=g)]


def weighted_mean(features, weights):
    return np.average(features, axis=0, weights=weights)


def weighted_covariance(features, weights):
    return np.cov(features.T, aweights=weights, ddof=0)


def numpy_mmd(phi, f, labels):
    return np.sum((weighted_mean(phi, f) - weighted_mean(phi, 1 - f)) ** 2)


def numpy_mmd_literal(phi, f, labels):
    own = sum(f[n] * phi[n] for n in range(len(phi))) / len(phi)
    rest = sum((1 - f[n]) * phi[n] for n in range(len(phi))) / len(phi)
    return np.sum((own - rest) ** 2)


def numpy_coral(phi, f, labels):
    gap = weighted_covariance(phi, f) - weighted_covariance(phi, 1 - f)
    return np.linalg.norm(gap, "fro") ** 2 / (4 * phi.shape[1] ** 2)


def numpy_kl(phi, f, labels):
    def divergence(mean_p, var_p, mean_q, var_q):
        return 0.5 * (np.log(var_q / var_p) + (var_p + (mean_p - mean_q) ** 2) / var_q - 1)

    a = weighted_mean(phi, f), np.diag(weighted_covariance(phi, f)) + 1e-3
    b = weighted_mean(phi, 1 - f), np.diag(weighted_covariance(phi, 1 - f)) + 1e-3
    return np.mean((divergence(*a, *b) + divergence(*b, *a)) / 2)


def numpy_cdd(phi, f, labels):
    present = sorted(set(labels.tolist()))
    own = {c: weighted_mean(phi[labels == c], f[labels == c]) for c in present}
    rest = {c: weighted_mean(phi[labels == c], 1 - f[labels == c]) for c in present}
    intra = [np.sum((own[c] - rest[c]) ** 2) for c in present]
    inter = [np.sum((own[c] - rest[d]) ** 2) for c in present for d in present if c != d]
    return np.mean(intra) - (np.mean(inter) if inter else 0)


FORMULAS = {
    "mmd": numpy_mmd,
    "mmd-literal": numpy_mmd_literal,
    "coral": numpy_coral,
    "kl": numpy_kl,
    "cdd": numpy_cdd,
}


def test_every_distance_has_a_formula_here():
    assert FORMULAS.keys() == DISTANCES.keys()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", FORMULAS)
def test_distance_equals_numpy(name, seed):
    phi, f, labels = case(seed)
    expected = FORMULAS[name](phi.numpy(), f.numpy(), labels.numpy())
    assert find_distance(name)(phi, f, labels).item() == pytest.approx(expected, rel=1e-6)


def test_cdd_skips_classes_that_the_batch_does_not_hold():
    phi, f, labels = case()
    sparse = torch.tensor([0, 4, 6])[labels]
    assert cdd(phi, f, sparse).item() == pytest.approx(cdd(phi, f, labels).item(), rel=1e-12)
    alone = torch.full_like(labels, 2)
    assert cdd(phi, f, alone).item() == pytest.approx(mmd(phi, f, labels).item(), rel=1e-6)


@pytest.mark.parametrize("mass", [0.02, 1 / 3, 0.5, 0.8, 0.98])
@pytest.mark.parametrize("name", ["mmd", "coral", "kl"])
def test_equal_distributions_are_at_zero_whatever_the_mass(name, mass):
    phi, _, labels = case()
    f = torch.full((len(phi),), mass)
    assert find_distance(name)(phi, f, labels).item() == pytest.approx(0, abs=1e-12)


def test_the_literal_mmd_of_equal_distributions_is_zero_at_half_the_mass_only():
    phi, _, labels = case()
    for mass in (1 / 3, 0.8):
        expected = (2 * mass - 1) ** 2 * phi.mean(0).square().sum().item()
        assert mmd_literal(phi, torch.full((len(phi),), mass), labels).item() == pytest.approx(expected)
        assert expected > 1e-3
    assert mmd_literal(phi, torch.full((len(phi),), 0.5), labels).item() == 0


@pytest.mark.parametrize("name", ["mmd", "mmd-literal", "coral", "kl"])
def test_swapping_group_and_rest_changes_nothing(name):
    phi, f, labels = case()
    distance = find_distance(name)
    assert distance(phi, 1 - f, labels).item() == pytest.approx(distance(phi, f, labels).item(), rel=1e-7)


@pytest.mark.parametrize("name", DISTANCES)
def test_order_of_samples_does_not_matter(name):
    phi, f, labels = case()
    order = torch.randperm(len(phi), generator=torch.Generator().manual_seed(1))
    distance = find_distance(name)
    expected = distance(phi, f, labels).item()
    assert distance(phi[order], f[order], labels[order]).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", ["mmd", "coral", "kl", "cdd"])
def test_a_shift_of_all_features_changes_nothing(name):
    phi, f, labels = case()
    distance = find_distance(name)
    assert distance(phi + 3.0, f, labels).item() == pytest.approx(distance(phi, f, labels).item(), rel=1e-5)


@pytest.mark.parametrize("name", DISTANCES)
def test_gradients_of_features_and_membership(name):
    phi, f, labels = case(count=7, width=3)
    inputs = phi.requires_grad_(), f.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: find_distance(name)(a, b, labels), inputs)
    assert torch.autograd.gradgradcheck(lambda a, b: find_distance(name)(a, b, labels), inputs)


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("f", [[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
def test_saturated_gates_give_finite_values_and_gradients_in_single_precision(name, f):
    phi = torch.randn(4, 3, dtype=torch.float32, requires_grad=True)
    membership = torch.tensor(f, dtype=torch.float32, requires_grad=True)
    value = find_distance(name)(phi, membership, torch.tensor([0, 1, 0, 1]))
    gradients = torch.autograd.grad(value, (phi, membership), allow_unused=True)
    assert torch.isfinite(value)
    assert all(torch.isfinite(g).all() for g in gradients if g is not None)


@pytest.mark.parametrize("name", ["mmd", "coral", "kl", "cdd"])
def test_without_a_rest_there_is_no_distance(name):
    """A gate that sends everything to one group (or K = 1) leaves nothing to adapt to, not a pull towards zero."""
    phi, _, labels = case()
    assert find_distance(name)(phi, torch.ones(len(phi)), labels).item() == pytest.approx(0, abs=1e-12)


def test_cdd_compares_only_classes_that_both_sides_hold():
    """Class 1 is in the rest alone: its distance to a class mean that does not exist is not part of the sum."""
    labels = torch.tensor([0, 0, 0, 1])
    f = torch.tensor([1.0, 1.0, 0.0, 0.0])
    phi = torch.tensor([[1.0], [3.0], [2.5], [40.0]])
    far = cdd(phi + 100, f, labels).item()
    assert far == pytest.approx(cdd(phi, f, labels).item(), rel=1e-5)


def test_an_unknown_distance_is_named_with_the_nearest():
    with pytest.raises(LbgnasError, match=r"'mdm'.*did you mean 'mmd'"):
        find_distance("mdm")
