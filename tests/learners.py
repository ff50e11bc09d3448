"""A learner of toy experts, its batches, and its whole state by name."""

from __future__ import annotations

import torch
from torch import nn

from lbgnas.grouping.experts import Experts
from lbgnas.grouping.hypergradient import Exact, FiniteDifference, FirstOrder
from lbgnas.grouping.learner import Learner
from lbgnas.grouping.sgd import Sgd
from lbgnas.grouping.unrolled import Levels
from tests.toys import ToyExpert, toy_batch, toy_gate

LEVELS = Levels(gate=Sgd(0.3, 0.9, 1e-4, clip=1.0), experts=Sgd(0.1, 0.9, 3e-4, clip=5.0))
WAYS = {"exact": Exact(), "reverse": Exact("reverse"), "difference": FiniteDifference(), "first": FirstOrder()}


def make(groups, gate=True, seed=0, samples=20, **settings):
    torch.manual_seed(seed)
    experts = Experts([ToyExpert() for _ in range(groups)], architecture=["alphas"], features="head")
    own_gate = toy_gate(groups)
    if not gate:
        return Learner(experts, None, None, **settings)
    return Learner(experts, own_gate, torch.randn(samples, groups), **settings)


def batches(seed, count=14, other=11):
    x, labels, _ = toy_batch(100 + seed, count)
    ids = torch.randperm(20, generator=torch.Generator().manual_seed(seed))[:count]
    return (x, labels, ids), toy_batch(200 + seed, other)


def everything(learner, buffers=True):
    """Every tensor of the state by name, copied."""
    found = {}

    def visit(prefix, part):
        if isinstance(part, torch.Tensor):
            if buffers or not any(word in prefix for word in ("running_", "num_batches")):
                found[prefix] = part.detach().clone()
        elif isinstance(part, dict):
            for key, value in part.items():
                visit(f"{prefix}.{key}", value)
        elif isinstance(part, (list, tuple)):
            for key, value in enumerate(part):
                visit(f"{prefix}.{key}", value)

    visit("", learner.state_dict())
    return found


def same(first, second):
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def linear_cnn():
    """Convolution, batch norm, pooling, no activation: linear in its input, batch statistics apart."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
