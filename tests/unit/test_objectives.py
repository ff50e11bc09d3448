from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from lbgnas.grouping.objectives import (
    cross_entropy,
    expert_loss,
    gate_loss,
    negative_mutual_information,
    route,
    validation_loss,
)

pytestmark = pytest.mark.usefixtures("float64")


def case(seed=0, count=9, classes=4, groups=3):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=g)
    labels = torch.randint(0, classes, (count,), generator=g)
    probs = torch.randn(count, groups, generator=g).softmax(1)
    return logits, labels, probs


def naive_cross_entropy(row, label):
    return -math.log(math.exp(row[label]) / sum(math.exp(value) for value in row))


def test_cross_entropy_equals_torch_in_value_and_both_derivatives():
    logits, labels, _ = case()
    logits.requires_grad_()
    ours, theirs = cross_entropy(logits, labels), F.cross_entropy(logits, labels, reduction="none")
    assert ours.shape == labels.shape
    assert torch.allclose(ours, theirs, rtol=1e-14)
    weights = torch.linspace(1, 2, len(labels))
    first, second = (
        torch.autograd.grad((loss * weights).sum(), logits, create_graph=True)[0] for loss in (ours, theirs)
    )
    assert torch.allclose(first, second, rtol=1e-13)
    direction = torch.randn_like(logits)
    curvature, expected = (torch.autograd.grad((g * direction).sum(), logits)[0] for g in (first, second))
    assert torch.allclose(curvature, expected, rtol=1e-12)


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_cross_entropy_of_huge_logits_is_finite(size):
    logits = (size * torch.tensor([[1.0, -1.0, 0.5]])).requires_grad_()
    loss = cross_entropy(logits, torch.tensor([1]))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.item() == pytest.approx(2 * size)
    assert gradient[0].tolist() == pytest.approx([1.0, -1.0, 0.0], abs=1e-200)


def test_gate_loss_is_the_mean_over_the_batch():
    _, _, probs = case()
    _, _, c = case(seed=1)
    expected = 0.0
    for n in range(len(probs)):
        j = max(range(3), key=lambda k: c[n, k].item())
        expected -= c[n, j].item() * math.log(probs[n, j].item())
    value, group = c.max(1)
    assert gate_loss(probs.log(), value, group).item() == pytest.approx(expected / len(probs), rel=1e-13)


def test_expert_shares_sum_to_level_two():
    logits, labels, probs = case()
    confidence, group = route(probs)
    expected = 0.0
    for n in range(len(labels)):
        expected += max(probs[n].tolist()) * naive_cross_entropy(logits[n].tolist(), labels[n].item())
    shares = sum(
        expert_loss(logits[group == k], labels[group == k], confidence[group == k], len(labels)) for k in range(3)
    )
    assert shares.item() == pytest.approx(expected / len(labels), rel=1e-13)


def test_validation_shares_sum_to_level_three():
    logits, labels, probs = case(2)
    confidence, group = route(probs)
    expected = 0.0
    for n in range(len(labels)):
        e = max(probs[n].tolist())
        expected += naive_cross_entropy([e * value for value in logits[n].tolist()], labels[n].item())
    shares = sum(
        validation_loss(logits[group == k], labels[group == k], confidence[group == k], len(labels)) for k in range(3)
    )
    assert shares.item() == pytest.approx(expected / len(labels), rel=1e-13)


def test_validation_loss_scales_logits_and_not_probabilities():
    """Only with logits does a wrong answer pull the confidence down and a right one up."""
    for label, sign in ((0, -1), (1, 1)):
        confidence = torch.tensor([0.7], requires_grad=True)
        validation_loss(torch.tensor([[2.0, -1.0]]), torch.tensor([label]), confidence, 1).backward()
        assert confidence.grad.sign().item() == sign


def test_route_takes_the_largest_and_the_same_column_at_every_tie():
    probs = torch.tensor([[0.2, 0.5, 0.3], [0.5, 0.5, 0.0], [0.25, 0.375, 0.375], [1 / 3, 1 / 3, 1 / 3]])
    confidence, group = route(probs)
    assert confidence.tolist() == [0.5, 0.5, 0.375, 1 / 3]
    assert group.tolist() == [1, 0, 1, 0]
    assert route(probs.repeat(500, 1))[1].tolist() == group.tolist() * 500


def test_mutual_information_against_loops():
    _, _, probs = case(3)
    rows, columns = probs.shape
    mean = [sum(probs[n, k].item() for n in range(rows)) / rows for k in range(columns)]
    information = -sum(m * math.log(m) for m in mean)
    for n in range(rows):
        information += sum(p * math.log(p) for p in probs[n].tolist()) / rows
    assert negative_mutual_information(probs.log()).item() == pytest.approx(-information, rel=1e-12)


def test_mutual_information_bounds_and_their_cases():
    for seed in range(20):
        logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(seed)) * 10 ** (seed / 5 - 2)
        value = negative_mutual_information(logits.log_softmax(1)).item()
        assert -math.log(4) <= value <= 1e-15
    sharp = 100 * torch.eye(4).repeat(5, 1)
    assert negative_mutual_information(sharp.log_softmax(1)).item() == pytest.approx(-math.log(4))
    for constant in ([0.0, 0.0, 0.0, 0.0], [100.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]):
        same = torch.tensor([constant]).repeat(7, 1)
        assert negative_mutual_information(same.log_softmax(1)).item() == pytest.approx(0, abs=1e-12)


def test_mutual_information_of_a_saturated_gate_has_a_finite_gradient():
    logits = torch.tensor([[500.0, 0.0], [500.0, -3.0]], requires_grad=True)
    negative_mutual_information(logits.log_softmax(1)).backward()
    assert torch.isfinite(logits.grad).all()
