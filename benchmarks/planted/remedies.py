"""What else was tried against collapse, each as a change to how groups are learned; none is part of lbgnas.

None is shown the planted groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.planted import models
from benchmarks.planted.problems import Problem
from benchmarks.planted.training import Recipe, fit, fit_classifier, k_means, logits_of
from lbgnas.grouping import objectives
from lbgnas.grouping.learner import Learner
from lbgnas.grouping.levels import Levels, Samples
from lbgnas.grouping.objectives import cross_entropy
from lbgnas.grouping.scouting import LARGEST
from lbgnas.grouping.stages import stage_one

NOISE = 0.1
Start = Callable[[Problem, Recipe, int, list[nn.Module]], Tensor | None]


@dataclass(frozen=True)
class Remedy:
    """One change; what is left out stays as it is.

    Attributes:
        start: may change the experts before the first step, and returns the first rows of C or None.
        temperature: by which the gate's logits are divided while groups are learned.
        passes: a context in which the steps are taken.
        before_epoch: called with the problem before each epoch.
        gate_steps: of level 1 in each step, on the same batch.
        fading: whether the information term falls to 0 as the rates do.
    """

    start: Start | None = None
    temperature: float = 1.0
    passes: Callable[[], AbstractContextManager[object]] = nullcontext
    before_epoch: Callable[[Learner, Problem], None] | None = None
    gate_steps: int = 1
    fading: bool = False


class Tempered(nn.Module):
    """A gate whose logits are divided by a temperature."""

    def __init__(self, gate: nn.Module, temperature: float) -> None:
        super().__init__()
        self.gate = gate
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.gate(x) / self.temperature
        return logits


def clusters(problem: Problem, recipe: Recipe, seed: int, modules: list[nn.Module]) -> Tensor:
    """C begins as k-means of the training inputs."""
    found = k_means(problem.train.x.flatten(1), problem.groups, seed)
    return _surest(torch.from_numpy(found.labels_).long(), problem.groups)


def choice(problem: Problem, recipe: Recipe, seed: int, modules: list[nn.Module]) -> Tensor:
    """C begins where experts agree best: each sample teaches the expert of least loss alone (multiple choice)."""
    train = problem.train

    def losses(own: nn.Module, rows: Tensor) -> Tensor:
        assert isinstance(own, nn.ModuleList)
        return torch.stack([cross_entropy(expert(train.x[rows]), train.y[rows]) for expert in own], 1)

    every = nn.ModuleList([models.trainable(problem) for _ in range(problem.groups)])
    fit(every, len(train), lambda own, rows: losses(own, rows).amin(1).mean(), recipe, seed)
    with torch.no_grad():
        return _surest(losses(every, torch.arange(len(train))).argmin(1), problem.groups)


def shared(problem: Problem, recipe: Recipe, seed: int, modules: list[nn.Module]) -> None:
    """Experts begin as copies, a little apart, of one that was trained on all samples."""
    one = fit_classifier(models.expert(problem), problem.train.x, problem.train.y, recipe, seed)
    for module in modules:
        module.load_state_dict(one.state_dict())
        _perturb(list(module.parameters()))


def _surest(group: Tensor, groups: int) -> Tensor:
    """Return rows of logits that lean to the given groups as far as those of scouts."""
    return LARGEST * (nn.functional.one_hot(group, groups).float() - 1)


@torch.no_grad()
def _perturb(values: list[Tensor]) -> None:
    for value in values:
        scale = value.std() if value.numel() > 1 else value.abs()
        value.add_(NOISE * scale * torch.randn_like(value))


@contextmanager
def exploring(share: float) -> Iterator[None]:
    """Send a share of the samples, drawn anew each step, to an expert drawn by lot."""

    def route(probs: Tensor) -> tuple[Tensor, Tensor]:
        _, group = objectives.route(probs)
        group = torch.where(torch.rand(len(group)) < share, torch.randint_like(group, probs.shape[1]), group)
        return probs.gather(1, group[:, None])[:, 0], group

    with mock.patch("lbgnas.grouping.unrolled.route", route):
        yield


@contextmanager
def straight_through() -> Iterator[None]:
    """Put 1 in place of the confidence E_n in Eq. 3 and 9, with the derivative of E_n."""

    def through(loss: Callable[..., Tensor], logits: Tensor, labels: Tensor, confidence: Tensor, batch: int) -> Tensor:
        return loss(logits, labels, confidence - confidence.detach() + 1, batch)

    with (
        mock.patch("lbgnas.grouping.stages.expert_loss", partial(through, objectives.expert_loss)),
        mock.patch("lbgnas.grouping.stages.validation_loss", partial(through, objectives.validation_loss)),
    ):
        yield


@torch.no_grad()
def revive(learner: Learner, problem: Problem) -> None:
    """Let an expert with under 1/(10K) of the samples begin anew as a perturbed copy of the largest, C and gate too."""
    gate, logits = learner.gate, learner.assignment_logits
    assert gate is not None
    assert logits is not None
    shares = torch.bincount(logits_of(gate, problem.train.x).argmax(1), minlength=problem.groups) / len(problem.train)
    largest = int(shares.argmax())
    last = [module for module in gate.modules() if isinstance(module, nn.Linear)][-1]
    modules = learner.experts.modules
    for dead in (shares < 0.1 / problem.groups).nonzero()[:, 0].tolist():
        modules[dead].load_state_dict(modules[largest].state_dict())
        _perturb(list(modules[dead].parameters()))
        learner.expert_buffers = {key: own for key, own in learner.expert_buffers.items() if key != dead}
        for own in (last.weight, last.bias):
            new = own[largest].clone()
            _perturb([new])
            own[dead] = new
        logits = logits.clone()
        logits[:, dead] = logits[:, largest] + NOISE * torch.randn(len(logits))
    learner.assignment_logits = logits


def more_of_level_one(learner: Learner, train: Samples, validation: Samples, levels: Levels, times: int) -> None:
    """Take steps of level 1 alone (Eq. 11)."""
    assert learner.gate is not None
    assert learner.assignment_logits is not None
    named = dict(learner.gate.named_parameters())
    for _ in range(times):
        rows = learner.assignment_logits[train[2]]
        first = stage_one(learner.gate, rows, train, validation, levels, learner.gate_buffers)
        learner.gate_buffers = first.buffers
        with torch.no_grad():
            for name, value in first.stepped.items():
                named[name].copy_(value)


REMEDIES = {
    "C begins as k-means": Remedy(start=clusters),
    "C begins by multiple choice": Remedy(start=choice),
    "experts begin as one": Remedy(start=shared),
    "a tenth of the samples to any expert": Remedy(passes=partial(exploring, 0.1)),
    "straight-through": Remedy(passes=straight_through),
    "temperature 0.5": Remedy(temperature=0.5),
    "temperature 2": Remedy(temperature=2.0),
    "four gate steps a step": Remedy(gate_steps=4),
    "dying experts revived": Remedy(before_epoch=revive),
    "information term that fades": Remedy(fading=True),
}
