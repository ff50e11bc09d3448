from __future__ import annotations

import pytest
import torch

from benchmarks.counts import saved_bytes
from lbgnas.grouping.adaptation import Adaptation, mmd
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.hypergradient import Exact, FiniteDifference
from lbgnas.grouping.learner import Learner
from lbgnas.grouping.levels import Levels
from lbgnas.grouping.sgd import Sgd
from lbgnas.networks.recompute import recomputed
from lbgnas.networks.supernet import Supernet
from lbgnas.space import load_space


def supernet(space, recompute, seed=0, channels=8):
    torch.manual_seed(seed)
    net = Supernet(load_space(space), 3, channels, 3).double().to(memory_format=torch.channels_last)
    net.skip_dropout, net.recompute = 0.3, recompute
    return net


def samples(count, seed):
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 8, 8, generator=draw, dtype=torch.float64)
    return images, torch.randint(3, (count,), generator=draw), torch.arange(count)


def learned(space, hypergradient, recompute):
    modules = [supernet(space, recompute, seed) for seed in range(2)]
    torch.manual_seed(5)
    gate = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)).double()
    logits = torch.randn(12, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    experts = Experts(modules, tuple(modules[0].architecture_parameters()), "classifier")
    learner = Learner(experts, gate, logits)
    levels = Levels(
        Sgd(0.1, 0.9), Sgd(0.05, 0.9, 1e-3, 1.0), hypergradient, adaptation=Adaptation(mmd, 0.3), mutual_information=1.0
    )
    for turn in range(2):
        experts.seed = turn
        losses = learner.step(samples(12, turn), samples(12, 9 + turn), levels)
    assert min(losses.train_groups) > 1
    return learner.state_dict()


@pytest.mark.parametrize(
    ("space", "hypergradient"),
    [
        ("darts", Exact()),
        ("pcdarts", Exact()),
        ("pcdarts", Exact("reverse")),
        ("pcdarts", FiniteDifference()),
    ],
    ids=["darts-forward", "pcdarts-forward", "pcdarts-reverse", "pcdarts-differences"],
)
def test_whole_steps_are_the_same(space, hypergradient):
    fast, low = (learned(space, hypergradient, recompute) for recompute in (False, True))
    torch.testing.assert_close(low, fast, rtol=1e-9, atol=1e-12)


def test_it_keeps_far_less():
    images = torch.randn(8, 3, 16, 16)

    def kept(recompute):
        net = supernet("darts", recompute).float()
        return saved_bytes(lambda: net(images).sum(), [*net.parameters(), *net.buffers(), images])

    assert kept(True) < 0.1 * kept(False)


def test_running_statistics_move_once_and_draws_are_the_same():
    layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5))
    x = torch.randn(6, 4, requires_grad=True)
    torch.manual_seed(0)
    output = recomputed(layer, x)
    seen = layer[1].running_mean.clone()
    slope = torch.randn(6, 4)
    after = torch.rand(1)
    found = torch.autograd.grad(output, x, slope)[0]
    assert torch.equal(layer[1].running_mean, seen)
    assert torch.rand(1) != after, "the backward leaves the stream of random numbers as it is"
    torch.manual_seed(0)
    assert torch.allclose(found, torch.autograd.grad(layer(x), x, slope)[0])
