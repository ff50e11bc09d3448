"""Learning by Grouping on a planted problem: the three levels of lbgnas on small experts."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from benchmarks.planted import models
from benchmarks.planted.problems import Part, Problem
from benchmarks.planted.remedies import Remedy, Tempered, more_of_level_one
from benchmarks.planted.training import Recipe, shuffled
from lbgnas.engine.schedules import cosine
from lbgnas.grouping.adaptation import Adaptation, mmd
from lbgnas.grouping.assignments import RowOptimizer, initial_assignments
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.learner import Learner, VanishedHypergradient
from lbgnas.grouping.levels import Levels, Samples
from lbgnas.grouping.scouting import Scout, Scouted, best_scout
from lbgnas.grouping.sgd import Sgd
from lbgnas.networks.supernet import Supernet

SCOUT_BATCH = 64


@dataclass(frozen=True)
class Options:
    """How the groups are learned; fields as in the settings of a search.

    scouts: for each group of linear experts; for those of images, which are dear, in all.
    """

    mutual_information: float = 1.0
    rows: RowOptimizer = field(default_factory=RowOptimizer)
    frozen: bool = False
    adaptation: Adaptation | None = None
    mixture: bool = False
    gate_rate: float = 0.05
    scouts: int = 8
    remedy: Remedy = field(default_factory=Remedy)


OURS = Options()
UNSCOUTED = Options(scouts=0)
FROZEN = Options(frozen=True)
DALBG = Options(adaptation=Adaptation(mmd, 0.1))
LITERAL = Options(mutual_information=0.0, rows=RowOptimizer("sgd"), scouts=0)
ARCHITECTURE_RATE = 3e-3


@dataclass(frozen=True)
class Found:
    """The gate, and the rows of C's logits for the training half."""

    gate: nn.Module
    assignment_logits: Tensor
    validation_loss: float


def as_scouted(options: Options) -> Options:
    """Return the options on which scouts depend, all others as they are by default."""
    return Options(mutual_information=options.mutual_information, scouts=options.scouts)


@lru_cache(maxsize=1)
def scout(problem: Problem, options: Options, recipe: Recipe, seed: int) -> tuple[Scouted, float]:
    """Train scouts, the odd ones without the information term; also return the seconds that it took.

    Methods that begin with the same scouts share them.
    """
    started, information = time.process_time(), options.mutual_information

    def batches(part: Part, number: int, epoch: int) -> Iterator[Samples]:
        generator = torch.Generator().manual_seed(1_000_003 * seed + 1009 * number + epoch)
        for _, rows in shuffled(len(part), SCOUT_BATCH, 1, generator):
            yield part.x[rows], part.y[rows], rows

    def make(number: int) -> Scout:
        torch.manual_seed(1009 * seed + number)
        experts = [models.scout_expert(problem) for _ in range(problem.groups)]
        weight = 0.0 if number % 2 else information
        return Scout(models.gate(problem, problem.groups), experts, weight)

    settings = Sgd(recipe.rate, recipe.momentum, recipe.decay, recipe.clip)
    count = options.scouts * (problem.groups if problem.kind == "linear" else 1)
    scouted = best_scout(
        [partial(make, number) for number in range(count)],
        partial(batches, problem.train),
        lambda: batches(problem.validation, 0, 0),
        len(problem.train),
        max(1, recipe.epochs // 2),
        settings,
    )
    return scouted, time.process_time() - started


def learn_groups(
    problem: Problem,
    options: Options,
    recipe: Recipe,
    seed: int,
    watch: Callable[[int, nn.Module], None] | None = None,
) -> Found:
    """Learn a grouping of the training half, with the validation half for level 3.

    `watch` is called before every epoch with its number and the gate.
    """
    train, held = problem.train, problem.validation
    modules = [models.expert(problem) for _ in range(problem.groups)]
    architecture = modules[0].architecture_parameters() if isinstance(modules[0], Supernet) else ()
    experts = Experts(modules, architecture)
    logits = initial_assignments(len(train), problem.groups, seed)
    gate, information = models.gate(problem, problem.groups), options.mutual_information
    generator = torch.Generator().manual_seed(seed)
    if options.scouts:
        scouted, _ = scout(problem, as_scouted(options), recipe, seed)
        gate, information = copy.deepcopy(scouted.gate), scouted.mutual_information
        logits = scouted.assignment_logits
    remedy = options.remedy
    if remedy.start is not None:
        begun = remedy.start(problem, recipe, seed, modules)
        logits = logits if begun is None else begun
    if remedy.temperature != 1:
        gate = Tempered(gate, remedy.temperature)
    learner = Learner(experts, gate, logits, options.rows, ARCHITECTURE_RATE)
    validation = shuffled(len(held), recipe.batch, 10 * recipe.epochs, generator)
    last: list[Tensor] = []
    seen = -1
    for epoch, rows in shuffled(len(train), recipe.batch, recipe.epochs, generator):
        if epoch > seen:
            seen = epoch
            if watch is not None:
                watch(epoch, gate)
            if remedy.before_epoch is not None:
                remedy.before_epoch(learner, problem)
        rate = cosine(1.0, 0.0, epoch, recipe.epochs)
        levels = Levels(
            gate=Sgd(options.gate_rate * rate, recipe.momentum, recipe.decay),
            experts=Sgd(recipe.rate * rate, recipe.momentum, recipe.decay, recipe.clip),
            mutual_information=information * (rate if remedy.fading else 1),
            adaptation=options.adaptation,
            mixture=options.mixture,
            assignments=not options.frozen,
        )
        other = next(validation)[1]
        batches = (train.x[rows], train.y[rows], rows), (held.x[other], held.y[other], other)
        more_of_level_one(learner, *batches, levels, remedy.gate_steps - 1)
        try:
            with remedy.passes():
                losses = learner.step(*batches, levels)
        except VanishedHypergradient:
            continue  # every decision of the gate is exactly 0 or 1: this batch teaches C nothing
        if epoch == recipe.epochs - 1 and losses.validation is not None:
            last.append(losses.validation)
    assert learner.gate is not None
    assert learner.assignment_logits is not None
    loss = float(torch.stack(last).mean()) if last else float("nan")
    return Found(learner.gate.eval(), learner.assignment_logits, loss)
