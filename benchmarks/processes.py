"""What a second process brings: samples a second of search and evaluation with one and with two, one thread each.

    python -m benchmarks.processes [--rounds 8] [--only step] [--clock cpu] [--channels 16]
    python -m benchmarks.processes --only work

Two experts at the sizes of the preset quick (or with other channels in the search), coloured digits. A is learned from
the first epoch; the evaluation is an ensemble of one published cell, so that both processes have equally much to do. An
epoch is timed with its end (measures, records, checkpoint). The steps of a search are also timed one by one: digits
give six of them an epoch, real data hundreds, and a machine that others use changes less within a step.

The cores of such a machine are not equally fast, slow each other down, and change. So two processes hold the run
three times: each its own, and one shared. A round is an epoch (or a step) by the first alone, by the second alone, by
each its own at the same time, and the shared one. All rates are told in those of one process alone, the mean over
both cores: two runs beside each other show what the machine has to give, the shared run what becomes of it. The first
round warms up. Told are the median over rounds, the ratio of all samples by all seconds, and that of the best rounds,
in which others took least of the machine. Where others take a core away for long, --clock cpu counts the CPU time of
each process instead, and of the shared run's the longer: what a machine of one's own would need, but for the time in
which both wait.

First it counts what a step of a search does (work): tensor operations and the floating-point operations of convolutions
and matrix products, of one process and of the busier of two. That is exact, and the most that can be gained.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.clocks import CLOCKS
from lbgnas.ranks import ALONE, Ranks, started

if TYPE_CHECKING:
    from lbgnas.engine.search import Search

MARK = "measured: "
WORK = "work"
STEPS = 6
"""Rounds of the steps to a round of epochs."""
EPOCHS = 8
"""Of an evaluation in a round; two processes meet after them."""
Part = Callable[[], None]


def _search(ranks: Ranks, folder: Path, rounds: int, base: str, grouping: str, channels: int | None) -> Search:
    """Return a search whose scouts are done: they are not part of what is timed, and two are enough for two groups."""
    from lbgnas.config import SearchSettings, load_preset, merged
    from lbgnas.engine.interrupts import Interrupts
    from lbgnas.engine.search import Search

    own = {"base": base, "grouping": grouping, "epochs": rounds, "architecture": {"warmup": 0.0}, "gate": {"scouts": 2}}
    own["network"] = {"channels": channels} if channels else {}
    run = Search(SearchSettings(**merged(load_preset("quick", "search", base), own)), folder, ranks=ranks)
    run._scout(Interrupts())
    return run


def search_epoch(
    ranks: Ranks, folder: Path, rounds: int, base: str, grouping: str, channels: int | None
) -> tuple[Part, int]:
    """Return what runs the next epoch of a search, and its samples."""
    from lbgnas.engine.interrupts import Interrupts
    from lbgnas.engine.run_folder import Metrics, Unwritten

    run, interrupts = _search(ranks, folder, rounds, base, grouping, channels), Interrupts()
    metrics = Metrics(folder, ()) if ranks.first else Unwritten()
    return lambda: run._run_epoch(interrupts, metrics), len(run.split.train)


def search_step(
    ranks: Ranks, folder: Path, rounds: int, base: str, grouping: str, channels: int | None
) -> tuple[Part, int]:
    """Return what takes the next step of a search, and its samples."""
    run = _search(ranks, folder, rounds, base, grouping, channels)
    levels = run.levels()
    run.plan.prepare(run.learner.experts, 0)
    pairs = chain.from_iterable(run.batches(epoch, 0) for epoch in count())

    def step() -> None:
        run.take_step(*next(pairs), levels)
        ranks.signal(None)

    return step, len(run.split.train) // run.steps


def evaluation_epochs(ranks: Ranks, folder: Path, rounds: int, *_: object) -> tuple[Part, int]:
    """Return what trains both experts of an evaluation for some epochs each, and the samples of that."""
    from lbgnas.config import EvaluationSettings, load_preset, merged
    from lbgnas.engine.evaluate import Evaluation
    from lbgnas.engine.interrupts import Interrupts
    from lbgnas.engine.run_folder import Metrics, Unwritten

    own = {"genotype": "PC_DARTS_cifar", "ensemble": 2, "epochs": 2 * EPOCHS * rounds}
    settings = EvaluationSettings(**merged(load_preset("quick", "evaluation"), own))
    run, interrupts = Evaluation(settings, folder, ranks=ranks), Interrupts()
    metrics = Metrics(folder, ()) if ranks.first else Unwritten()

    def epochs() -> None:
        together = EPOCHS if ranks.count > 1 else 1
        for _ in range(2 * EPOCHS // (ranks.count * together)):
            run.epochs_alone = together  # what ten seconds are enough for, the same in every round
            run._run_epochs(interrupts, metrics)

    return epochs, EPOCHS * sum(map(len, run.own))


def work(ranks: Ranks, folder: Path, base: str, grouping: str, channels: int | None) -> tuple[int, int]:
    """Return the tensor operations and the floating-point operations of a search's second step."""
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.counts import count_operations

    step, _ = search_step(ranks, folder, 2, base, grouping, channels)
    step()
    with FlopCounterMode(display=False) as counter:
        operations = count_operations(step).total()
    return operations, counter.get_total_flops()


PARTS: dict[str, Callable[..., tuple[Part, int]]] = {
    "search": search_epoch,
    "step": search_step,
    "evaluation": evaluation_epochs,
}


def child(what: str, clock: str, rounds: int, base: str, grouping: str, channels: int | None) -> None:
    """One process's part; the first one prints the seconds of every round: alone, alone, together."""
    from lbgnas.engine.machine import prepare_cpu

    prepare_cpu()
    import torch

    torch.set_num_threads(1)
    now = CLOCKS[clock]
    with started(torch.device("cpu")) as ranks, TemporaryDirectory() as place:
        shared = ranks.of_first(lambda: Path(place))
        (shared / "shared").mkdir(exist_ok=True)
        (Path(place) / "alone").mkdir()
        if what == WORK:
            own = work(ALONE, Path(place) / "alone", base, grouping, channels)
            both = ranks.gathered(work(ranks, shared / "shared", base, grouping, channels))
            if ranks.first:
                print(MARK + json.dumps([own, both]), flush=True)
            return
        # The own run is used twice a round.
        alone, samples = PARTS[what](ALONE, Path(place) / "alone", 2 * rounds, base, grouping, channels)
        together, _ = PARTS[what](ranks, shared / "shared", rounds, base, grouping, channels)

        def timed(part: Part, active: bool = True) -> list[float]:
            """Return the seconds of the active processes, which begin at once."""
            ranks.signal(None)
            begun = now()
            if active:
                part()
            taken = now() - begun
            return [seconds for seconds in ranks.gathered(taken if active else None) if seconds]

        seconds = []
        for _ in range(rounds):
            ones = [timed(alone, turn == ranks.rank)[0] for turn in range(ranks.count)]
            seconds.append([ones, timed(alone), timed(together)])
        if ranks.first:
            print(MARK + json.dumps([samples, seconds[1:]]), flush=True)


def measured(what: str, clock: str, rounds: int, base: str, grouping: str, channels: int | None) -> list[Any]:
    """Start two processes and return what the first one prints."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    given = ["--child", what, "--clock", clock, "--rounds", str(rounds), "--base", base, "--grouping", grouping]
    wide = ["--channels", str(channels)] if channels else []
    done = subprocess.run(
        [*command, "-m", "benchmarks.processes", *given, *wide],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if not lines:
        sys.exit(done.stderr)
    found: list[Any] = json.loads(lines[0].removeprefix(MARK))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds",
        type=int,
        default=8,
        help=f"at least 2, steps {STEPS} times that; the first is not counted (default: 8)",
    )
    parser.add_argument("--base", default="pcdarts")
    parser.add_argument("--grouping", default="dalbg")
    parser.add_argument("--channels", type=int, help="of the search")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a machine that others use too")
    parser.add_argument("--only", choices=(WORK, *PARTS))
    parser.add_argument("--child", choices=(WORK, *PARTS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rounds < 2:
        parser.error(f"--rounds {given.rounds}: must be at least 2, for the first is not counted")
    if given.child:
        child(given.child, given.clock, given.rounds, given.base, given.grouping, given.channels)
        return
    for what in [given.only] if given.only else (WORK, *PARTS):
        rounds = given.rounds * (STEPS if what == "step" else 1)
        found = measured(what, given.clock, rounds, given.base, given.grouping, given.channels)
        if what == WORK:
            _tell_work(*found)
        else:
            _tell(what, *found)


def _tell_work(alone: list[int], both: list[list[int]]) -> None:
    for name, one, each in zip(("tensor", "floating-point"), alone, zip(*both, strict=True), strict=True):
        most = max(each)
        print(
            f"a step's {name} operations: {one:,}; of the busier of two processes {most:,}, {one / most:.2f} times less"
        )


def _tell(what: str, samples: int, seconds: list[list[list[float]]]) -> None:
    alone = [samples / statistics.mean(each[0]) for each in seconds]
    beside = [samples * sum(1 / taken for taken in each[1]) for each in seconds]
    shared = [samples / max(each[2]) for each in seconds]
    print(f"{what}: one process alone {statistics.median(alone):.1f} samples/s, {len(seconds)} rounds")
    for name, rates in {"two runs at once": beside, "one run of two": shared}.items():
        ratios = [rate / own for rate, own in zip(rates, alone, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        best = max(rates) / max(alone)
        whole = statistics.harmonic_mean(rates) / statistics.harmonic_mean(alone)
        spread = f"quartiles {low:.2f} to {high:.2f}; all rounds {whole:.2f}; best of each {best:.2f}"
        print(f"    {name}: {middle:.2f} times that ({spread})", flush=True)


if __name__ == "__main__":
    main()
