"""Learning by Grouping on a planted problem: the three levels of lbgnas on small experts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.planted import models
from benchmarks.planted.problems import Problem
from benchmarks.planted.training import Recipe, logits_of, shuffled
from lbgnas.engine.schedules import cosine
from lbgnas.grouping.adaptation import Adaptation, mmd
from lbgnas.grouping.assignments import RowOptimizer, initial_assignments
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.learner import Learner, VanishedHypergradient
from lbgnas.grouping.levels import Levels
from lbgnas.grouping.sgd import Sgd


@dataclass(frozen=True)
class Options:
    """How the groups are learned; the values here are the defaults of lbgnas."""

    mutual_information: float = 1.0
    rows: RowOptimizer = field(default_factory=RowOptimizer)
    frozen: bool = False
    adaptation: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)
    gate_rate: float = 0.05
    epochs: int | None = None


@dataclass(frozen=True)
class Grouping:
    """A gate, the rows of C's logits for the training half, and what was seen of them in every epoch."""

    gate: nn.Module
    assignment_logits: Tensor
    history: list[dict[str, float]]


def learn_groups(problem: Problem, options: Options, recipe: Recipe, seed: int, watch=None, init=None) -> Grouping:
    """Search a grouping of the training half, with the validation half for level 3."""
    torch.manual_seed(seed)
    groups = problem.groups
    experts = Experts([models.expert(problem) for _ in range(groups)], (), "classifier" if problem.kind != "vector" else None)
    gate = models.gate(problem, groups)
    logits = initial_assignments(len(problem.train), groups, seed) if init is None else init
    learner = Learner(experts, gate, logits, options.rows)
    epochs = options.epochs or recipe.epochs
    levels = Levels(
        gate=Sgd(options.gate_rate, 0.9, recipe.decay),
        experts=Sgd(recipe.rate, recipe.momentum, recipe.decay, recipe.clip),
        mutual_information=options.mutual_information,
        adaptation=Adaptation(mmd, options.adaptation) if options.adaptation else None,
        assignments=not options.frozen,
        **options.extra,
    )
    generator = torch.Generator().manual_seed(seed)
    validation = shuffled(len(problem.validation), recipe.batch, 10 * epochs, generator)
    history = []
    last = -1
    sums = [0.0, 0]
    for epoch, rows in shuffled(len(problem.train), recipe.batch, epochs, generator):
        if epoch != last:
            if watch and last >= 0:
                history.append({"L3": sums[0] / sums[1], **watch(learner, last)})
                sums = [0.0, 0]
            last = epoch
            rate = cosine(1.0, 0.0, epoch, epochs)
            now = dataclasses.replace(
                levels,
                gate=levels.gate._replace(rate=levels.gate.rate * rate),
                experts=levels.experts._replace(rate=levels.experts.rate * rate),
            )
        held = next(validation)[1]
        part, other = problem.train, problem.validation
        try:
            losses = learner.step((part.x[rows], part.y[rows], rows), (other.x[held], other.y[held], held), now)
            if losses.validation is not None:
                sums[0] += losses.validation.item()
                sums[1] += 1
        except VanishedHypergradient:
            pass
    if watch:
        history.append({"L3": sums[0] / max(1, sums[1]), **watch(learner, last)})
    assert learner.gate is not None and learner.assignment_logits is not None
    return Grouping(learner.gate.eval(), learner.assignment_logits, history)


def assign(gate: nn.Module, x: Tensor) -> Tensor:
    """Return the gate's group of each sample."""
    return logits_of(gate, x).argmax(1)
