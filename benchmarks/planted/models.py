"""Experts, gates and single models of matching size for each kind of planted problem."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.planted.problems import Problem
from lbgnas.networks.counting import count_parameters
from lbgnas.networks.supernet import Supernet
from lbgnas.space import space_from

EXPERT_WIDTH = {"cnn": 3, "supernet": 2}
GATE_WIDTH = 4
SPACE = space_from(
    {
        "name": "two nodes",
        "nodes": 2,
        "concat": [2, 3],
        "operations": ["max_pool_3x3", "skip_connect", "sep_conv_3x3"],
        "cells": 3,
    },
    "planted",
)


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


def _network(problem: Problem, width: int) -> nn.Module:
    side, channels = problem.train.x.shape[-1], problem.train.x.shape[1]
    if problem.kind == "linear":
        return nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, problem.classes))
    if problem.kind == "cnn":
        return SmallCnn(width, problem.classes, side, channels)
    return Supernet(SPACE, SPACE.cells, 2 * width, problem.classes, channels, stem_multiplier=2)


def expert(problem: Problem) -> nn.Module:
    """Return one expert: a linear rule, a small CNN or a small supernet."""
    if problem.kind == "linear":
        return nn.Linear(problem.train.x.shape[1], problem.classes)
    return _network(problem, EXPERT_WIDTH[problem.kind])


def trainable(problem: Problem) -> nn.Module:
    """Return an expert to be trained plainly: a supernet keeps its operations mixed evenly."""
    return _even(expert(problem))


def _even(network: nn.Module) -> nn.Module:
    for name, value in network.named_parameters():
        if name.startswith("alphas"):
            value.requires_grad_(False).zero_()
    return network


def scout_expert(problem: Problem) -> nn.Module:
    """Return an expert of a scout: a linear rule or a small CNN."""
    if problem.kind == "linear":
        return expert(problem)
    return SmallCnn(EXPERT_WIDTH["cnn"], problem.classes, problem.train.x.shape[-1])


def gate(problem: Problem, groups: int) -> nn.Module:
    """Return a gate: a linear rule or a small CNN."""
    if problem.kind == "linear":
        return nn.Linear(problem.train.x.shape[1], groups)
    return SmallCnn(GATE_WIDTH, groups, problem.train.x.shape[-1])


def _nearest(problem: Problem, cost: Callable[[nn.Module], float], wanted: float) -> nn.Module:
    def distance(width: int) -> float:
        return abs(cost(_network(problem, width)) - wanted)

    with torch.random.fork_rng():
        width = 1
        while distance(width + 1) < distance(width):
            width += 1
    return _even(_network(problem, width))


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
