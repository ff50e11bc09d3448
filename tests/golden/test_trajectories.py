"""Three steps of the published algorithms from the same start: losses, gradient norms, alphas and weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lbgnas.bases.base import find_base
from lbgnas.bases.darts_minus import auxiliary_weight
from lbgnas.grouping.bilevel import bilevel_gradients
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.hypergradient import Exact, FiniteDifference, FirstOrder
from lbgnas.grouping.learner import Learner
from lbgnas.grouping.sgd import Sgd
from lbgnas.grouping.unrolled import Levels
from lbgnas.networks.supernet import Supernet
from lbgnas.space import load_space
from tests.golden import reference


def start(space, channels, cells, scale, naming="darts"):
    net = Supernet(load_space(space), cells, channels, 10)
    reference.fill(net, naming)
    reference.arch_values(net, scale)
    return net.train(), Experts([net], architecture=net.architecture_parameters())


def batch(image_seed, labels):
    return reference.images(image_seed, 4), torch.as_tensor(labels), torch.arange(4)


def drawn(seed):
    return np.random.RandomState(seed).randint(0, 10, 4)


@pytest.mark.parametrize(
    ("file", "name", "way"),
    [
        ("traj_darts_1st", "darts", FirstOrder()),
        ("traj_darts_2nd", "darts", FiniteDifference(0.01)),
        ("traj_pc_1st", "pcdarts", FirstOrder()),
        ("traj_pc_2nd", "pcdarts", FiniteDifference(0.01)),
        ("traj_pdarts_1st", "pdarts", FirstOrder()),
        ("traj_dm_1st", "darts-", FirstOrder()),
    ],
)
def test_none_reproduces_the_reference_trajectory(float64, file, name, way):
    expected = reference.golden(file)
    base = find_base(name)
    net, experts = start(base.space, 8, 3, 1e-3, "pdarts" if name == "pdarts" else "darts")
    net.auxiliary_weight = auxiliary_weight("linear", 1.0, epoch=10, epochs=50)
    learner = Learner(
        experts, None, None, architecture_rate=base.architecture_rate, architecture_clip=base.architecture_clip
    )
    levels = Levels(gate=Sgd(0.0), experts=Sgd(0.025, 0.9, 3e-4, clip=5), hypergradient=way)
    for step, (loss, size) in enumerate(expected["steps_loss_gradnorm"]):
        train, validation = batch(10 + step, drawn(20 + step)), batch(30 + step, drawn(40 + step))
        losses = learner.bilevel_step(train, validation, levels)
        reference.assert_close(losses.experts.item(), loss)
        reference.assert_close(losses.gradient_norm.item(), size, 1e-6)
    for value, wanted in zip(net.architecture_parameters().values(), expected["alpha"], strict=True):
        reference.assert_summary(value, wanted, 1e-9)
    weights = torch.cat([value.flatten() for value in net.weight_parameters().values()])
    reference.assert_close(weights.norm().item(), expected["weight_l2"])
    reference.assert_close(weights.sum().item(), expected["weight_sum"], 1e-6)


@pytest.mark.parametrize("buffer", [0, 1])
@pytest.mark.parametrize("unrolled", [0, 1])
def test_architecture_gradients_equal_reference(float64, unrolled, buffer):
    expected = reference.golden("golden_darts")[f"architect.C4.L3.unrolled={unrolled}.momentum_buffer={buffer}"]
    _, experts = start("darts", 4, 3, 1.0)
    learner = Learner(experts, None, None)
    train, validation = batch(1, [1, 2, 3, 4]), batch(2, [5, 6, 7, 8])
    sgd = Sgd(0.025, 0.9, 3e-4, clip=5)
    if buffer:
        learner.bilevel_step(train, validation, Levels(gate=Sgd(0.0), experts=sgd, architecture=False))
    levels = Levels(gate=Sgd(0.0), experts=sgd, hypergradient=FiniteDifference(0.01) if unrolled else FirstOrder())
    found, *_ = bilevel_gradients(experts, train, validation, levels, learner.expert_buffers.get(0))
    for gradient, wanted in zip(found.values(), expected["grads"], strict=True):
        reference.assert_summary(gradient, wanted)


@pytest.mark.parametrize(("buffer", "sizes"), [(0, (0.20107945, 0.16537307)), (1, (0.19716894, 0.14679785))])
def test_exact_second_order_equals_double_backward(float64, buffer, sizes):
    _, experts = start("darts", 4, 3, 1.0)
    learner = Learner(experts, None, None)
    train, validation = batch(1, [1, 2, 3, 4]), batch(2, [5, 6, 7, 8])
    sgd = Sgd(0.025, 0.9, 3e-4, clip=5)
    if buffer:
        learner.bilevel_step(train, validation, Levels(gate=Sgd(0.0), experts=sgd, architecture=False))
    for mode in ("forward", "reverse"):
        levels = Levels(gate=Sgd(0.0), experts=sgd, hypergradient=Exact(mode))
        found, *_ = bilevel_gradients(experts, train, validation, levels, learner.expert_buffers.get(0))
        for gradient, size in zip(found.values(), sizes, strict=True):
            reference.assert_close(gradient.norm().item(), size)
