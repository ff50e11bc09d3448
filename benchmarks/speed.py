"""Speed and memory against other codes, side by side in one run: the table of docs/performance.md.

    python benchmarks/speed.py [--quick] [--only ID ...] [--threads 1 2] [--rounds N] [--clock cpu]
                               [--json FILE] [--plot FILE]

Peers: a network and search steps built as the published codes build them, one module for each edge and operation
(benchmarks/reference), and NNI 3.0 where it is installed (pip install '.[bench]'). Every round runs each subject once,
so that all see the same machine; the best round of each counts. Counts are exact, and taken once.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from lbgnas.engine.machine import prepare_cpu

prepare_cpu()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from benchmarks import subjects  # noqa: E402
from benchmarks.clocks import CLOCKS  # noqa: E402
from benchmarks.counts import count_operations, saved_bytes  # noqa: E402
from benchmarks.reference.network import ReferenceNetwork  # noqa: E402


class Row(NamedTuple):
    """One measure: what is compared (names of builders in `subjects`, or a count), and the goal for the ratio."""

    about: str
    ours: str
    peer: str
    goal: float


TIMES = {
    "fwd_bwd": Row("forward and backward, DARTS supernet", "ours_pass", "reference_pass", 0.30),
    "low": Row("the same, memory low | fast", "ours_pass_low", "ours_pass", 1.50),
    "second_order": Row("second-order step, one network", "ours_second_order", "reference_second_order", 0.25),
    "nni_first_order": Row("first-order step | NNI strategy.DARTS", "ours_first_order", "nni_first_order", 0.25),
    "lbg_step": Row("LBG, 2 x 5 cells | second-order step, 8 cells", "lbg", "reference_second_order", 0.20),
    "lbg_pcdarts": Row("LBG-PC-DARTS, 2 x 5 cells | PC-DARTS first order", "lbg_pcdarts", "reference_pcdarts", 1.00),
    "dalbg": Row("DALBG | LBG", "dalbg", "lbg", 1.15),
    "exact": Row("exact | finite-difference hypergradient, LBG", "lbg", "lbg_finite_difference", 1.00),
    "k8": Row("K = 8 | K = 1, equal parameters, batch 64", "eight_experts", "one_expert", 1.10),
    "eval_step": Row("evaluation step, DARTS_V2, 20 cells", "ours_evaluation", "reference_evaluation", 0.60),
    "compiled": Row("the same with --compile", "compiled_evaluation", "reference_evaluation", 0.60),
    "quick": Row("preset quick, LBG | second-order step, 4 cells", "quick", "reference_quick", 0.20),
    "quick_dalbg": Row("preset quick, DALBG | LBG", "quick_dalbg", "quick", 1.15),
}


class Result(NamedTuple):
    ours: float
    peer: float
    unit: str
    spread: float


COUNTED = 4
"""Samples of the pass that is counted."""


def counted(_: bool) -> dict[str, Result]:
    """Count the operations of one pass, whatever its batch, and the bytes it saves for each sample."""
    calls, kept = {}, {}
    for kind in ("ours", "low", "bfloat16", "peer"):
        net = subjects.supernet()
        net.recompute = kind == "low"
        form = torch.contiguous_format if kind == "peer" else torch.channels_last
        net = ReferenceNetwork(net) if kind == "peer" else net.to(memory_format=form)
        run = subjects.in_bfloat16(net) if kind == "bfloat16" else net
        images = torch.randn(COUNTED, 3, subjects.SIZE, subjects.SIZE).contiguous(memory_format=form)
        labels = torch.randint(10, (COUNTED,))

        def loss(run: subjects.Pass = run, images: torch.Tensor = images, labels: torch.Tensor = labels):
            return F.cross_entropy(run(images), labels)

        calls[kind] = sum(count_operations(lambda loss=loss: loss().backward()).values())
        kept[kind] = saved_bytes(loss, [*net.parameters(), *net.buffers(), images, labels]) / COUNTED / 1e6
    return {
        "ops": Result(calls["ours"], calls["peer"], "", 0.0),
        "saved_bytes": Result(kept["ours"], kept["peer"], "MB/sample", 0.0),
        "saved_low": Result(kept["low"], kept["peer"], "MB/sample", 0.0),
        "saved_bf16": Result(kept["bfloat16"], kept["peer"], "MB/sample", 0.0),
    }


def live_memory(quick: bool) -> dict[str, Result]:
    """Compare the bytes of all tensors alive early in a search with those after many steps."""
    run = subjects._learner(2, subjects.Exact(), cells=3, channels=4, size=8, batch=16)

    def alive() -> int:
        gc.collect()
        tensors = [value for value in gc.get_objects() if issubclass(type(value), torch.Tensor)]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())

    early, late = (5, 15) if quick else (20, 1000)
    for _ in range(early):
        run()
    before = alive()
    for _ in range(late - early):
        run()
    return {"live_memory": Result(alive() / 1e6, before / 1e6, "MB", 0.0)}


COUNTS: dict[tuple[str, ...], tuple[Callable[[bool], dict[str, Result]], dict[str, tuple[str, float]]]] = {
    ("ops", "saved_bytes", "saved_low", "saved_bf16"): (
        counted,
        {
            "ops": ("tensor operations of forward and backward", 0.20),
            "saved_bytes": ("kept for the backward", 0.40),
            "saved_low": ("the same, memory low", 0.10),
            "saved_bf16": ("the same, precision bfloat16", 0.25),
        },
    ),
    ("live_memory",): (live_memory, {"live_memory": ("alive after 1,000 steps | 20 (--quick: 15 | 5)", 1.0)}),
}
IDS = [*(name for names in COUNTS for name in names), *TIMES]
QUICK = [*(name for name in IDS if name not in ("compiled", "k8")), "k8"]  # "compiled" takes minutes
QUICK_SECONDS = 140.0
"""After so long a quick look begins with no other subject; one takes up to half a minute."""


def timed(
    rows: dict[str, Row], rounds: int, clock: str, until: float | None, say: Callable[[str], None]
) -> tuple[dict[str, Result], dict[str, str]]:
    """Run every subject once a round; return the best of each, and why a subject is missing.

    until: a quick look's end by time.monotonic(): its subjects are not run before they are timed, and left out later.
    """
    runs: dict[str, subjects.Run] = {}
    missing: dict[str, str] = {}
    times: dict[str, list[float]] = {}
    names = list(dict.fromkeys(name for row in rows.values() for name in (row.ours, row.peer)))
    for turn in range(rounds):
        for name in names:
            if turn == 0 and until is not None and time.monotonic() > until:
                missing[name] = "no time is left for it in a quick look"
            elif turn == 0:
                try:
                    runs[name] = getattr(subjects, name)()
                except ImportError as error:
                    missing[name] = f"not installed ({error})"
                if until is None and name in runs:
                    runs[name]()  # allocations, compiled kernels
            if name in runs:
                started = CLOCKS[clock]()
                runs[name]()
                times.setdefault(name, []).append(CLOCKS[clock]() - started)
        say(f"round {turn + 1} of {rounds}")
    results, why = {}, {}
    for row_id, row in rows.items():
        gone = [missing[name] for name in (row.ours, row.peer) if name in missing]
        if gone:
            why[row_id] = gone[0]
            continue
        ours, peer = times[row.ours], times[row.peer]
        ratios = [one / other for one, other in zip(ours, peer, strict=True)]
        results[row_id] = Result(min(ours), min(peer), "s", max(ratios) - min(ratios))
    return results, why


def machine() -> str:
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    versions = [f"torch {torch.__version__}", f"python {platform.python_version()}"]
    try:
        versions.append(f"nni {metadata.version('nni')}")
    except metadata.PackageNotFoundError:
        versions.append("nni not installed")
    return f"{model}, {os.cpu_count()} cores, {platform.system()}; {', '.join(versions)}"


def line(row_id: str, about: str, goal: float, result: Result) -> str:
    ratio = result.ours / result.peer
    verdict = "yes" if ratio <= goal else "no"
    numbers = f"{result.ours:10.3f} {result.peer:10.3f} {result.unit:9s} {ratio:6.3f} {goal:6.2f}  {verdict:3s}"
    return f"{row_id:16s} {numbers} {result.spread:6.3f}  {about}"


def plot(rows: list[dict[str, object]], path: Path) -> None:
    """Draw each ratio, a mark for each number of threads, and its goal."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ids = list(dict.fromkeys(str(row["id"]) for row in rows))[::-1]
    figure, axis = pyplot.subplots(figsize=(7, 0.3 * len(ids) + 1))
    for threads in sorted({int(str(row["threads"])) for row in rows}):
        own = [row for row in rows if row["threads"] == threads]
        places = [ids.index(str(row["id"])) for row in own]
        axis.plot([row["ratio"] for row in own], places, "o", alpha=0.7, label=f"{threads} thread(s)")
    for row in rows:
        place = ids.index(str(row["id"]))
        axis.plot([row["goal"]] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1)
    axis.set_yticks(range(len(ids)), ids)
    axis.set_xscale("log")
    axis.set_xlabel("ours / peer (line: goal)")
    axis.grid(axis="x", alpha=0.3)
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a rough look: quarter batches, 1 round, 3 minutes at most",
    )
    parser.add_argument("--only", nargs="+", choices=IDS, metavar="ID", help=", ".join(IDS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1], help="thread counts, one table each")
    parser.add_argument("--rounds", type=int, help="default 5, with --quick 1")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a machine that others use too")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="write a picture of the ratios")
    given = parser.parse_args()
    rounds = given.rounds or (1 if given.quick else 5)
    only = given.only or (QUICK if given.quick else IDS)
    if given.quick:
        subjects.BATCH //= 4
    started = time.monotonic()
    sys.stdout.reconfigure(line_buffering=True)
    print(machine())
    out = []
    for threads in given.threads:
        torch.set_num_threads(threads)
        print(f"\n{threads} thread(s), {rounds} round(s), {given.clock} clock; best round; spread of the ratio")
        print(f"{'id':16s} {'ours':>10s} {'peer':>10s} {'unit':9s} {'ratio':>6s} {'goal':>6s}  met spread  what")
        rows: list[tuple[str, str, float, Result]] = []
        for names, (measure, about) in COUNTS.items():
            if threads == given.threads[0] and any(name in only for name in names):
                found = measure(given.quick)
                rows += [(name, *about[name], found[name]) for name in names if name in only]
        wanted = {name: TIMES[name] for name in only if name in TIMES}
        until = started + QUICK_SECONDS if given.quick else None
        found, why = timed(
            wanted, rounds, given.clock, until, lambda text: print(f"  {text}", file=sys.stderr, flush=True)
        )
        rows += [(name, wanted[name].about, wanted[name].goal, result) for name, result in found.items()]
        for row in rows:
            print(line(*row))
            row_id, _, goal, result = row
            out.append(
                {"id": row_id, "threads": threads, "ours": result.ours, "peer": result.peer}
                | {"ratio": result.ours / result.peer, "goal": goal, "spread": result.spread}
            )
        for row_id, reason in why.items():
            print(f"{row_id:16s} {reason}")
    if given.json is not None:
        given.json.write_text(json.dumps(out, indent=1) + "\n")
    if given.plot is not None:
        plot(out, given.plot)


if __name__ == "__main__":
    main()
