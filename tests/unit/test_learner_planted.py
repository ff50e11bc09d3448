"""Two linear experts learn a planted grouping; fewer levels do not."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from lbgnas.grouping.adaptation import DISTANCES, Adaptation
from lbgnas.grouping.assignments import initial_assignments
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.learner import Learner
from lbgnas.grouping.sgd import Sgd
from lbgnas.grouping.unrolled import Levels
from tests.learners import linear_cnn

pytestmark = pytest.mark.usefixtures("float64")


def planted(count, seed):
    """Group = sign of one channel, label = sign of the other, turned round in one group: no linear model finds it."""
    g = torch.Generator().manual_seed(seed)
    mean = torch.randn(count, 2, generator=g)
    mean = mean + 0.3 * mean.sign()
    labels = ((mean[:, 0] > 0) ^ (mean[:, 1] > 0)).long()
    x = mean[:, :, None, None] + 0.3 * torch.randn(count, 2, 3, 3, generator=g)
    return x, labels, torch.arange(count)


def linear_gate(groups):
    return nn.Sequential(nn.Flatten(), nn.Linear(18, groups))


def accuracy(learner, samples):
    x, labels, _ = samples
    for module in learner.experts.modules:
        module.eval()
    with torch.no_grad():
        group = learner.gate(x).argmax(1)
        logits = torch.stack([module(x) for module in learner.experts.modules], 1)
    for module in learner.experts.modules:
        module.train()
    return (logits[torch.arange(len(x)), group].argmax(1) == labels).double().mean().item()


def search(groups, seed, levels, count=12, samples=192, size=64, **settings):
    train, validation = planted(samples, 10), planted(samples, 11)
    torch.manual_seed(seed)
    experts = Experts([linear_cnn() for _ in range(groups)])
    logits = initial_assignments(samples, groups, seed).double()
    learner = Learner(experts, linear_gate(groups), logits, **settings)
    g = torch.Generator().manual_seed(3)
    for _ in range(count):
        for rows in torch.randperm(samples, generator=g).split(size):
            chosen = torch.randint(0, samples, (size,), generator=g)
            learner.step([p[rows] for p in train], [p[chosen] for p in validation], levels)
    return learner


PLANTED = Levels(Sgd(0.2, 0.9), Sgd(0.1, 0.9))


@pytest.mark.parametrize("adaptation", [None, "mmd"])
def test_two_linear_experts_learn_a_planted_grouping(adaptation):
    test = planted(1000, 12)
    chosen = None if adaptation is None else Adaptation(DISTANCES[adaptation], 1e-3)
    levels = dataclasses.replace(PLANTED, adaptation=chosen)
    assert accuracy(search(2, 0, levels), test) > 0.85


def test_one_expert_does_not():
    assert accuracy(search(1, 0, PLANTED), planted(1000, 12)) < 0.65


def test_without_learned_assignments_two_experts_do_not_either():
    """What finds the groups is the hypergradient of C, not the gate by itself."""
    levels = dataclasses.replace(PLANTED, assignments=False)
    assert accuracy(search(2, 0, levels), planted(1000, 12)) < 0.75
