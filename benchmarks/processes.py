"""What a second process brings: samples a second of search and evaluation with one and with two, one thread each.

    python -m benchmarks.processes --rounds 3

Two experts at the sizes of the preset quick, coloured digits. The search has its scouts and an A that is learned from
the first epoch; the evaluation is an ensemble of one published cell, so that both processes have equally much to do.
Whole epochs are timed, with their ends (measures, checkpoint); the first one warms up. Each round starts both ways
anew, one after the other; the medians are told.

Two clocks: the wall's, and the seconds that the slower process computes between two meetings, added up. Where other
programs want the cores the first says little, and the second what free cores would give but for the wait on messages.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

MARK = "measured: "
COUNTS = (1, 2)


class Measured(NamedTuple):
    """Samples a second by the wall's clock and by the processors', and the share of each expert."""

    wall: float
    computing: float
    shares: list[float]


def child(what: str, epochs: int, base: str, grouping: str) -> None:
    """One process's part; the first one prints what was measured."""
    from lbgnas.engine.machine import prepare_cpu

    prepare_cpu()
    import torch

    from lbgnas.config import EvaluationSettings, SearchSettings, load_preset, merged
    from lbgnas.engine.evaluate import Evaluation
    from lbgnas.engine.reporting import Reporter
    from lbgnas.engine.search import Search
    from lbgnas.ranks import started

    class Clock(Reporter):
        """Notes wall and processor time where processes meet: every step of a search, every epoch."""

        def __init__(self) -> None:
            self.marks: list[tuple[float, float]] = []
            self.epochs: list[tuple[int, dict]] = []

        def step(self, values):
            if what == "search":
                self.marks.append((time.monotonic(), time.process_time()))

        def epoch(self, line, record):
            self.marks.append((time.monotonic(), time.process_time()))
            self.epochs.append((len(self.marks), record))

    torch.set_num_threads(1)
    clock = Clock()
    with started(torch.device("cpu")) as ranks, TemporaryDirectory() as place:
        folder = ranks.of_first(lambda: Path(place))
        if what == "search":
            own = {"base": base, "grouping": grouping, "epochs": epochs, "architecture": {"warmup": 0.0}}
            values = merged(load_preset("quick", "search", base), own)
            search = Search(SearchSettings(**values), folder, report=clock, ranks=ranks)
            search.run()
            rows = [len(search.split.train)]
        else:
            values = merged(
                load_preset("quick", "evaluation"), {"genotype": "PC_DARTS_cifar", "ensemble": 2, "epochs": epochs}
            )
            evaluation = Evaluation(EvaluationSettings(**values), folder, report=clock, ranks=ranks)
            evaluation.run()
            rows = [len(own) for own in evaluation.own]
        together = ranks.gathered(clock.marks)
    if not ranks.first:
        return
    # The epochs of several experts that end together are told at once.
    warm = ranks.count if what == "evaluation" else 1
    first = clock.epochs[warm - 1][0] - 1
    samples = sum(rows[record.get("expert", 0)] for _, record in clock.epochs[warm:])
    wall = clock.marks[-1][0] - clock.marks[first][0]
    steps = zip(*([b[1] - a[1] for a, b in itertools.pairwise(own)] for own in together), strict=True)
    computing = sum(list(map(max, steps))[first:])
    shares = clock.epochs[-1][1].get("group_share") or [count / sum(rows) for count in rows]
    print(MARK + json.dumps(Measured(samples / wall, samples / computing, shares)), flush=True)


def measured(count: int, arguments: list[str]) -> Measured:
    """Start so many processes and return what they measured."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    done = subprocess.run(
        [*command, "-m", "benchmarks.processes", "--child", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if not lines:
        sys.exit(done.stderr)
    return Measured(*json.loads(lines[0].removeprefix(MARK)))


def told(name: str, one: list[float], two: list[float]) -> str:
    """Return a line with both rates, how many times the second is the first, and what each round gave."""
    rates, ratio = (statistics.median(one), statistics.median(two)), statistics.median(two) / statistics.median(one)
    each = ", ".join(f"{a:.1f} {b:.1f}" for a, b in zip(one, two, strict=True))
    return f"    {name}: {rates[0]:.1f} samples/s with 1 process, {rates[1]:.1f} with 2, {ratio:.2f} times ({each})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--base", default="pcdarts")
    parser.add_argument("--grouping", default="dalbg")
    parser.add_argument("--only", choices=("search", "evaluation"))
    parser.add_argument("--child", choices=("search", "evaluation"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.epochs, given.base, given.grouping)
        return
    common = ["--epochs", str(given.epochs), "--base", given.base, "--grouping", given.grouping]
    for what in [given.only] if given.only else ["search", "evaluation"]:
        found = {count: [] for count in COUNTS}
        for _ in range(given.rounds):
            for count in COUNTS:
                found[count].append(measured(count, [what, *common]))
        one, two = found[1], found[2]
        print(f"{what}, shares of the experts {' '.join(f'{share:.2f}' for share in two[-1].shares)}")
        print(told("wall clock", [each.wall for each in one], [each.wall for each in two]))
        print(told("computing", [each.computing for each in one], [each.computing for each in two]), flush=True)


if __name__ == "__main__":
    main()
