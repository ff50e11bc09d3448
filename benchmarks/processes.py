"""What a second process brings: samples a second of search and evaluation with one and with two, one thread each.

    python -m benchmarks.processes [--rounds 8] [--only search] [--channels 16]

Two experts at the sizes of the preset quick (or with other channels in the search), coloured digits. A is learned from
the first epoch; the evaluation is an ensemble of one published cell, so that both processes have equally much to do. An
epoch is timed with its end (measures, records, checkpoint), and in the search its steps also alone: digits give six
steps an epoch, real data hundreds.

The cores of a machine that others use too are not equally fast, slow each other down, and change. So two processes hold
the run three times: each its own, and one shared. A round is an epoch by the first alone, by the second alone, by each
its own at the same time, and the shared one. All rates are told in those of one process alone, the mean over both
cores: two runs beside each other show what the machine has to give, the shared run what becomes of it. The first round
warms up.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from lbgnas.ranks import ALONE, Ranks, started

MARK = "measured: "
Epoch = Callable[[], float | None]


def search_epoch(
    ranks: Ranks, folder: Path, rounds: int, base: str, grouping: str, channels: int | None
) -> tuple[Epoch, int]:
    """Return what runs the next epoch of a search and returns the seconds of its steps, and its samples."""
    from lbgnas.config import SearchSettings, load_preset, merged
    from lbgnas.engine.interrupts import Interrupts
    from lbgnas.engine.run_folder import Metrics, Unwritten
    from lbgnas.engine.search import Search

    # Two scouts are enough for two groups; they are not part of what is timed.
    own = {"base": base, "grouping": grouping, "epochs": rounds, "architecture": {"warmup": 0.0}, "gate": {"scouts": 2}}
    own["network"] = {"channels": channels} if channels else {}
    settings = SearchSettings(**merged(load_preset("quick", "search", base), own))
    run, interrupts = Search(settings, folder, ranks=ranks), Interrupts()
    metrics = Metrics(folder, ()) if ranks.first else Unwritten()
    run._scout(interrupts)

    def epoch() -> float:
        run._run_epoch(interrupts, metrics)
        assert run.last_record is not None
        return float(run.last_record["seconds"])

    return epoch, len(run.split.train)


def evaluation_epoch(ranks: Ranks, folder: Path, rounds: int, *_: object) -> tuple[Epoch, int]:
    """Return what runs the next epoch of both experts of an evaluation, and its samples."""
    from lbgnas.config import EvaluationSettings, load_preset, merged
    from lbgnas.engine.evaluate import Evaluation
    from lbgnas.engine.interrupts import Interrupts
    from lbgnas.engine.run_folder import Metrics, Unwritten

    own = {"genotype": "PC_DARTS_cifar", "ensemble": 2, "epochs": rounds}
    settings = EvaluationSettings(**merged(load_preset("quick", "evaluation"), own))
    run, interrupts = Evaluation(settings, folder, ranks=ranks), Interrupts()
    metrics = Metrics(folder, ()) if ranks.first else Unwritten()

    def epoch() -> None:
        for _ in range(2 // ranks.count):
            run._run_epochs(interrupts, metrics)

    return epoch, sum(map(len, run.own))


EPOCHS: dict[str, Callable[..., tuple[Epoch, int]]] = {"search": search_epoch, "evaluation": evaluation_epoch}


def child(what: str, rounds: int, base: str, grouping: str, channels: int | None) -> None:
    """One process's part; the first one prints the seconds of every round: alone, alone, together."""
    from lbgnas.engine.machine import prepare_cpu

    prepare_cpu()
    import torch

    torch.set_num_threads(1)
    with started(torch.device("cpu")) as ranks, TemporaryDirectory() as place:
        shared = ranks.of_first(lambda: Path(place))
        (shared / "shared").mkdir(exist_ok=True)
        (Path(place) / "alone").mkdir()
        # The own run takes two epochs a round.
        alone, samples = EPOCHS[what](ALONE, Path(place) / "alone", 2 * rounds, base, grouping, channels)
        together, _ = EPOCHS[what](ranks, shared / "shared", rounds, base, grouping, channels)

        def timed(epoch: Epoch, active: bool = True) -> list[tuple[float, float]]:
            """Return the seconds of the active processes, which begin at once: epoch, its steps."""
            ranks.signal(None)
            begun = time.monotonic()
            steps = epoch() if active else None
            whole = time.monotonic() - begun
            return [taken for taken in ranks.gathered((whole, steps or whole) if active else None) if taken]

        seconds = []
        for _ in range(rounds):
            ones = [timed(alone, turn == ranks.rank)[0] for turn in range(ranks.count)]
            seconds.append([ones, timed(alone), timed(together)])
        if ranks.first:
            print(MARK + json.dumps([samples, seconds[1:]]), flush=True)


def measured(
    what: str, rounds: int, base: str, grouping: str, channels: int | None
) -> tuple[int, list[list[list[tuple[float, float]]]]]:
    """Start two processes and return the samples of an epoch and the seconds of each round: epoch, its steps."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    given = ["--child", what, "--rounds", str(rounds), "--base", base, "--grouping", grouping]
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
    samples, seconds = json.loads(lines[0].removeprefix(MARK))
    return samples, seconds


def _mean(seconds: list[float]) -> float:
    return 1 / statistics.mean(seconds)


def _sum(seconds: list[float]) -> float:
    return sum(1 / taken for taken in seconds)


def _last(seconds: list[float]) -> float:
    return 1 / max(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="at least 2: the first is not counted (default: 8)")
    parser.add_argument("--base", default="pcdarts")
    parser.add_argument("--grouping", default="dalbg")
    parser.add_argument("--channels", type=int, help="of the search")
    parser.add_argument("--only", choices=tuple(EPOCHS))
    parser.add_argument("--child", choices=tuple(EPOCHS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rounds < 2:
        parser.error(f"--rounds {given.rounds}: must be at least 2, for the first is not counted")
    if given.child:
        child(given.child, given.rounds, given.base, given.grouping, given.channels)
        return
    for what in [given.only] if given.only else EPOCHS:
        samples, seconds = measured(what, given.rounds, given.base, given.grouping, given.channels)
        _tell(what, samples, [[[whole for whole, _ in runs] for runs in each] for each in seconds])
        if what == "search":
            _tell("its steps", samples, [[[steps for _, steps in runs] for runs in each] for each in seconds])


def _tell(what: str, samples: int, seconds: list[list[list[float]]]) -> None:
    one, beside, shared = (
        [samples * times(each[place]) for each in seconds] for place, times in enumerate((_mean, _sum, _last))
    )
    told = {"two runs at once": beside, "one run of two": shared}
    print(f"{what}: one process alone {statistics.median(one):.1f} samples/s, {len(seconds)} rounds")
    for name, rates in told.items():
        ratios = [rate / own for rate, own in zip(rates, one, strict=True)]
        each = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"    {name}: {statistics.median(ratios):.2f} times that ({each})", flush=True)


if __name__ == "__main__":
    main()
