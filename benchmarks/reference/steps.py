"""Search steps the way the published codes take them: SGD and Adam of torch, every derivative by loss.backward()."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reference.network import ReferenceNetwork

Batch = tuple[Tensor, Tensor]


class ReferenceSearch:
    """DARTS (Liu et al., arXiv:1806.09055): an architecture step on the validation batch, then a weight step.

    Second order as published: S' = S - eta (mu b + g + wd S); finite differences of radius 0.01 / |v| for the mixed
    term: five passes in all.
    """

    def __init__(self, net: ReferenceNetwork, rate: float = 0.025, second_order: bool = True) -> None:
        self.net, self.rate, self.second_order = net, rate, second_order
        self.momentum, self.decay, self.clip = 0.9, 3e-4, 5.0
        self.optimizer = torch.optim.SGD(net.weights(), rate, momentum=self.momentum, weight_decay=self.decay)
        self.architecture_optimizer = torch.optim.Adam(net.architecture(), 3e-4, (0.5, 0.999), weight_decay=1e-3)
        # The published code builds a new network in every step; keeping one spares the peer that time.
        self.virtual = copy.deepcopy(net) if second_order else None

    def step(self, train: Batch, validation: Batch) -> None:
        self.architecture_optimizer.zero_grad()
        if self.second_order:
            self._second_order(train, validation)
        else:
            loss(self.net, validation).backward()
        self.architecture_optimizer.step()
        self.optimizer.zero_grad()
        loss(self.net, train).backward()
        nn.utils.clip_grad_norm_(self.net.weights(), self.clip)
        self.optimizer.step()

    def _second_order(self, train: Batch, validation: Batch) -> None:
        weights, architecture = self.net.weights(), self.net.architecture()
        gradient = torch.autograd.grad(loss(self.net, train), weights)
        assert self.virtual is not None
        with torch.no_grad():
            for own, value, slope in zip(self.virtual.weights(), weights, gradient, strict=True):
                buffer = self.optimizer.state[value].get("momentum_buffer")
                moved = slope + self.decay * value
                own.copy_(value - self.rate * (moved if buffer is None else moved + self.momentum * buffer))
            for own, value in zip(self.virtual.architecture(), architecture, strict=True):
                own.copy_(value)
            for own, value in zip(self.virtual.buffers(), self.net.buffers(), strict=True):
                own.copy_(value)
        self.virtual.zero_grad()
        loss(self.virtual, validation).backward()
        vector = [value.grad for value in self.virtual.weights()]
        radius = 0.01 / torch.cat([part.reshape(-1) for part in vector]).norm()
        sides = []
        for sign in (1, -2):
            with torch.no_grad():
                for value, part in zip(weights, vector, strict=True):
                    value.add_(part * radius, alpha=sign)
            sides.append(torch.autograd.grad(loss(self.net, train), architecture))
        with torch.no_grad():
            for value, part in zip(weights, vector, strict=True):
                value.add_(part * radius)
        for value, own, ahead, behind in zip(architecture, self.virtual.architecture(), *sides, strict=True):
            value.grad = own.grad - self.rate * (ahead - behind) / (2 * radius)


def loss(net: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(net(batch[0]), batch[1])
