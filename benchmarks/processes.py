"""What a second process brings: samples a second of search and evaluation with one process and with two, one thread each.

    python -m benchmarks.processes --rounds 3

Two experts at the sizes of the preset quick, coloured digits. The search has its scouts and an A that is learned from
the first epoch; the evaluation is an ensemble of one published cell, so that both processes have equally much to do.
Whole epochs are timed, with their ends (measures, checkpoint); the first one warms up. Each round starts both ways
anew, one after the other; the medians are told.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

MARK = "rate: "
COUNTS = (1, 2)


def child(what: str, epochs: int, base: str, grouping: str) -> None:
    """One process's part; the first one prints the rate and the shares of the experts."""
    from lbgnas.engine.machine import prepare_cpu

    prepare_cpu()
    import torch

    from lbgnas.config import EvaluationSettings, SearchSettings, load_preset, merged
    from lbgnas.engine.evaluate import Evaluation
    from lbgnas.engine.reporting import Reporter
    from lbgnas.engine.search import Search
    from lbgnas.ranks import started

    torch.set_num_threads(1)
    seen: list[tuple[float, int, int]] = []
    with started(torch.device("cpu")) as ranks, TemporaryDirectory() as place:
        folder = ranks.of_first(lambda: Path(place))
        if what == "search":
            own = {"base": base, "grouping": grouping, "epochs": epochs, "architecture": {"warmup": 0.0}}
            values = merged(load_preset("quick", "search", base), own)
            run: Search | Evaluation = Search(SearchSettings(**values), folder, ranks=ranks)
        else:
            own = {"genotype": "PC_DARTS_cifar", "ensemble": 2, "epochs": epochs}
            run = Evaluation(
                EvaluationSettings(**merged(load_preset("quick", "evaluation"), own)), folder, ranks=ranks
            )

        class Clock(Reporter):
            def epoch(self, line, record):
                rows = run.split.train if isinstance(run, Search) else run.own[record["expert"]]
                shares.append(record.get("group_share", [0.5, 0.5]))
                seen.append((time.monotonic(), len(rows), record.get("expert", 0)))

        shares: list[list[float]] = []
        run.report = Clock()
        run.run()
    if ranks.first:
        # Several experts whose epochs end together are told one after the other.
        warm = seen[: ranks.count if what == "evaluation" else 1]
        samples = sum(rows for _, rows, _ in seen[len(warm) :])
        print(MARK + json.dumps([samples / (seen[-1][0] - warm[-1][0]), shares[-1]]), flush=True)


def measured(count: int, arguments: list[str]) -> tuple[float, list[float]]:
    """Start so many processes; return samples a second and the experts' shares."""
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
    rate, shares = json.loads(lines[0].removeprefix(MARK))
    return rate, shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--base", default="pcdarts")
    parser.add_argument("--grouping", default="lbg")
    parser.add_argument("--only", choices=("search", "evaluation"))
    parser.add_argument("--child", choices=("search", "evaluation"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.epochs, given.base, given.grouping)
        return
    common = ["--epochs", str(given.epochs), "--base", given.base, "--grouping", given.grouping]
    for what in [given.only] if given.only else ["search", "evaluation"]:
        rates: dict[int, list[float]] = {count: [] for count in COUNTS}
        for _ in range(given.rounds):
            for count in COUNTS:
                rate, shares = measured(count, [what, *common])
                rates[count].append(rate)
        one, two = (statistics.median(rates[count]) for count in COUNTS)
        told = "/".join(f"{share:.2f}" for share in shares)
        print(f"{what}: {one:.1f} samples/s with 1 process, {two:.1f} with 2: {two / one:.2f} times; shares {told}")
        for count in COUNTS:
            print(f"    {count}: {' '.join(f'{rate:.1f}' for rate in rates[count])}", flush=True)


if __name__ == "__main__":
    main()
