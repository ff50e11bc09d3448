"""What a run will need, from a few of its steps: time, memory, parameters. Nothing is kept."""

from __future__ import annotations

import dataclasses
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

import torch

from lbgnas.bases.pdarts import prune
from lbgnas.engine.evaluate import Evaluation
from lbgnas.engine.inference import answers
from lbgnas.engine.plan import Plan
from lbgnas.engine.scouts import run_scouts
from lbgnas.engine.search import Search
from lbgnas.grouping.scouting import Scouted
from lbgnas.networks.counting import count_parameters

Item = TypeVar("Item")
STEPS = 6
SAMPLES = 256


class Estimate(NamedTuple):
    """What a run is expected to need.

    Attributes:
        seconds: from its first step to its result; with its start if `after` was told how long that takes.
        peak_bytes: of the process on a CPU, of the device otherwise.
        parameters: of all experts and the gate.
        step_seconds: of one step; the longest where stages or experts differ.
    """

    seconds: float
    peak_bytes: int
    parameters: int
    step_seconds: float

    def after(self, start: float) -> Estimate:
        """Return the estimate of a run whose start takes so many seconds."""
        return self._replace(seconds=self.seconds + start)

    def told(self, device: torch.device) -> str:
        """Return one line."""
        hours, rest = divmod(round(self.seconds), 3600)
        memory = "memory of the GPU" if device.type == "cuda" else "memory of the process"
        return (
            f"estimate: {hours} h {rest // 60} min {rest % 60} s, {self.step_seconds:.2g} s a step; {memory} "
            f"{self.peak_bytes / 2**30:.2f} GiB; {self.parameters:,} parameters with the gate"
        )


def peak_bytes(device: torch.device) -> int:
    """Return the most memory used so far: of the process (CPU), or of the device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    started = now()
    work()
    return now() - started


class _Pace(NamedTuple):
    """Seconds of a step, its wait for data included: of the first, which prepares kernels, and the mean of others."""

    first: float
    later: float

    def of(self, steps: int) -> float:
        return self.first + (steps - 1) * self.later


def _pace(device: torch.device, epoch: Callable[[], Iterator[Item]], take: Callable[[Item], object]) -> _Pace:
    """Return the pace of an epoch: after one step its first ones, all where they are few, for the last may be short."""
    times: list[float] = []

    def step(stream: Iterator[Item]) -> None:
        take(next(stream))

    for stream in (islice(epoch(), 1), islice(epoch(), STEPS)):
        with suppress(StopIteration):
            while True:
                times.append(_seconds(device, partial(step, stream)))
    later = times[1:]
    return _Pace(times[0], sum(later) / len(later))


def _search_pace(search: Search, learned: bool) -> _Pace:
    """Return the pace of the stage under way, with A learned or frozen."""
    levels = dataclasses.replace(search.levels(), architecture=learned)
    search.plan.prepare(search.learner.experts, search.epoch)
    return _pace(
        search.device,
        lambda: search.batches(search.epoch, 0),
        lambda pair: search.take_step(*pair, levels=levels),
    )


def _end_seconds(search: Search) -> float:
    """Return the seconds of the end of an epoch: its record and its checkpoint."""
    levels = search.levels()
    return _seconds(search.device, lambda: search.record(levels, 0.0)) + _seconds(search.device, search.save)


def _scout_seconds(search: Search) -> float:
    """Return the seconds of all scouts, from one of them, and begin where it leads: the sizes of groups cost time."""

    def short(**fewer: int) -> Plan:
        settings = search.plan.settings
        gate = settings.gate.model_copy(update=fewer)
        return Plan(settings.model_copy(update={"gate": gate}), search.plan.base, search.plan.space)

    found: list[Scouted] = []

    def scout(plan: Plan) -> None:
        found.append(run_scouts(plan, search.data, search.split, search.device, lambda: None))

    scout(short(scouts=1, scout_epochs=1))  # prepares kernels
    each = _seconds(search.device, partial(scout, short(scouts=1)))
    search.begin_from(found[-1])
    return each * search.plan.settings.gate.scouts


def estimate_search(search: Search) -> Estimate:
    """Return what a search will need. It is spent afterwards: give one in a folder of its own.

    A few steps of every stage are taken, with A frozen and learned, and one epoch's end; one scout runs.
    """
    plan, settings = search.plan, search.plan.settings
    total = _scout_seconds(search) if search.wants_scouts() else 0.0
    longest, count = 0.0, 0
    for number, stage in enumerate(plan.stages):
        search.epoch = number * settings.epochs
        if number:
            pairs = zip(search.spaces, search.alphas(), strict=True)
            search.spaces = [prune(space, own, stage.keep) for space, own in pairs]
            search.rebuild()
        learner = search.learner
        modules = [*learner.experts.modules, *([] if learner.gate is None else [learner.gate])]
        count = max(count, sum(count_parameters(module) for module in modules))
        for learned, epochs in ((False, plan.warmup), (True, settings.epochs - plan.warmup)):
            if epochs:
                pace = _search_pace(search, learned)
                total, longest = total + pace.of(epochs * search.steps), max(longest, pace.later)
        total += settings.epochs * _end_seconds(search)
        search.sums, search.step_in_epoch = {}, 0
    return Estimate(total, peak_bytes(search.device), count, longest)


def estimate_evaluation(evaluation: Evaluation) -> Estimate:
    """Return what an evaluation will need. It is spent afterwards: give one in a folder of its own.

    A few steps of every expert are taken; the answers to the test split are timed on a few samples of the pool.
    """
    device, total, longest = evaluation.device, 0.0, 0.0
    for index, trained in enumerate(evaluation.trained):
        if trained:
            evaluation.take_up(index)
            evaluation.networks[index].train()
            pace = _pace(device, evaluation.batches, evaluation.train_step)
            save, epochs = _seconds(device, evaluation.save), evaluation.settings.epochs
            total += pace.of(epochs * evaluation.steps(index)) + epochs * save
            longest = max(longest, pace.later)
    some = torch.arange(min(SAMPLES, len(evaluation.data)))
    gate, networks, multiple = evaluation.gate, evaluation.networks, evaluation.multiple

    def answer() -> None:
        answers(gate, networks, evaluation.data, some, device, all_experts=True, multiple=multiple)

    total += _seconds(device, answer) * len(evaluation.test_split()) / len(some)
    modules = [*networks, *([] if gate is None else [gate])]
    return Estimate(total, peak_bytes(device), sum(count_parameters(module) for module in modules), longest)
