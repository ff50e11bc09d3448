"""Experts, gates and single models of matching size for each kind of planted problem."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.planted.problems import Problem
from lbgnas.networks.counting import count_parameters

EXPERT_WIDTH = 5
GATE_WIDTH = 4


class SmallCnn(nn.Module):
    """3x3 convolutions of `width` and twice `width` channels, each with ReLU and 2x2 max pooling; a linear layer."""

    def __init__(self, width: int, outputs: int, side: int = 14, in_channels: int = 1) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(2 * width * (side // 4) ** 2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x))
        return logits


def expert(problem: Problem) -> nn.Module:
    """Return one expert: a linear rule, or a small CNN."""
    if problem.kind == "vector":
        return nn.Linear(problem.train.x.shape[1], problem.classes)
    return SmallCnn(EXPERT_WIDTH, problem.classes)


def gate(problem: Problem, groups: int) -> nn.Module:
    """Return a gate of the experts' kind."""
    if problem.kind == "vector":
        return nn.Linear(problem.train.x.shape[1], groups)
    return SmallCnn(GATE_WIDTH, groups)


def _network(problem: Problem, width: int) -> nn.Module:
    if problem.kind == "vector":
        features = problem.train.x.shape[1]
        return nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, problem.classes))
    return SmallCnn(width, problem.classes)


def _nearest(problem: Problem, cost: Callable[[nn.Module], float], wanted: float) -> nn.Module:
    with torch.random.fork_rng():
        width = min(range(1, 200), key=lambda w: abs(cost(_network(problem, w)) - wanted))
    return _network(problem, width)


def single_of_equal_parameters(problem: Problem) -> nn.Module:
    """Return one network with about as many parameters as the gate and K experts together."""
    wanted = problem.groups * count_parameters(expert(problem)) + count_parameters(gate(problem, problem.groups))
    return _nearest(problem, count_parameters, wanted)


def single_of_equal_macs(problem: Problem) -> nn.Module:
    """Return one network that costs a sample about as much as the gate and one expert together."""
    sample = problem.train.x[:1]

    def cost(module: nn.Module) -> float:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(sample)
        return counter.get_total_flops() / 2

    return _nearest(problem, cost, cost(expert(problem)) + cost(gate(problem, problem.groups)))
