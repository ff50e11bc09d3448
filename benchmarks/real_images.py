"""Do learned groups help on real images? Search, train and measure; print a table for each data set.

    python -m benchmarks.real_images [--quick] [--data NAME ...] [--bases darts pcdarts] [--methods NAME ...] \\
        [--seeds 0 1 2 3 4] [--epochs 1] [--out runs/real-images] [--json FILE] [--plot FILE]

Fashion-MNIST at 12 pixels, plain, or in two classes with a synthetic attribute that agrees with the label for 95 % of
the pool and half of the test split. Every method has the same recipe on 11/12 of the pool; the rest is for validation
error. Experts and gate have about 24,000 parameters together, as many as a single network. Only Group DRO is told the
attribute. Resumable: rows that --json holds (by default rows.jsonl in --out) and searches in --out are not run again. A
process has one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Iterable
from concurrent.futures import as_completed
from pathlib import Path

from benchmarks.real.methods import DATA, FULL, METHODS, QUICK, Scale, is_base, measured
from benchmarks.workers import workers

BASES = ("darts", "pcdarts", "pdarts", "darts-")
COLUMNS = {
    "error": "error %",
    "validation_error": "validation error %",
    "worst_cell": "worst cell %",
    "dp": "DP",
    "deo_sum": "deo_sum",
    "ari": "ARI",
    "macs": "MACs",
    "search_seconds": "search, CPU s",
    "seconds": "training, CPU s",
}
Row = dict[str, object]
Job = tuple[str, str, int]


def rows_of(path: Path) -> dict[tuple[str, str, int, str], Row]:
    """Return the rows of a file of one JSON object a line, by data, base, seed and method."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {(row["data"], row["base"], row["seed"], row["method"]): row for row in rows}


def run_all(job: Job, methods: Iterable[str], scale: Scale, out: Path, path: Path) -> None:
    """Run the methods of one data set, base and seed one after the other: they share searches."""
    for method in methods:
        known = rows_of(path).get((*job, "base"))
        if known and is_base(method, job[0], job[2], scale):
            row = known | {"method": method}
        else:
            row = measured(job[0], job[1], method, job[2], scale, out)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def cell(rows: list[Row], name: str) -> str:
    values = [float(str(row[name])) for row in rows if row[name] is not None]
    if not values:
        return ""
    if name == "macs":
        return f"{statistics.mean(values):,.0f}"
    digits = 0 if "seconds" in name else 1 if name in ("error", "validation_error", "worst_cell") else 3
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def table(rows: list[Row]) -> str:
    lines = []
    for data, base in dict.fromkeys((row["data"], row["base"]) for row in rows):
        own = [row for row in rows if (row["data"], row["base"]) == (data, base)]
        seeds = ", ".join(sorted({str(row["seed"]) for row in own}))
        shown = [name for name in COLUMNS if any(row[name] is not None for row in own)]
        lines += [f"\n## {data}, {base} (seeds {seeds})\n"]
        lines += ["| method | " + " | ".join(COLUMNS[name] for name in shown) + " |", "|" + " --- |" * (len(shown) + 1)]
        for method in METHODS:
            found = [row for row in own if row["method"] == method]
            if found:
                lines.append(f"| {method} | " + " | ".join(cell(found, name) for name in shown) + " |")
    return "\n".join(lines)


def plot(rows: list[Row], path: Path) -> None:
    """Draw each method's error and worst cell: a dot a seed, a line for the mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = list(dict.fromkeys((row["data"], row["base"]) for row in rows))
    names = list(reversed(METHODS))
    figure, axes = pyplot.subplots(len(panels), 2, figsize=(11, 3.2 * len(panels)), squeeze=False, sharey=True)
    for line, (data, base) in zip(axes, panels, strict=True):
        for axis, name in zip(line, ("error", "worst_cell"), strict=True):
            own = [row for row in rows if (row["data"], row["base"]) == (data, base) and row[name] is not None]
            axis.set_visible(bool(own))
            for method in {str(row["method"]) for row in own}:
                values = [float(str(row[name])) for row in own if row["method"] == method]
                place = names.index(method)
                axis.plot(values, [place] * len(values), "o", color=f"C{place}", alpha=0.6)
                axis.vlines(statistics.mean(values), place - 0.35, place + 0.35, color=f"C{place}")
            axis.set_yticks(range(len(names)), names)
            axis.set_ylim(-0.7, len(names) - 0.3)
            axis.set_xlabel(f"{data}, {base}: {COLUMNS[name]}")
            axis.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed of one base on few images: does it run?")
    parser.add_argument("--data", nargs="+", choices=DATA, default=["coloured-fashion-mnist", "fashion-mnist"])
    parser.add_argument("--bases", nargs="+", choices=BASES, default=["darts", "pcdarts"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="NAME", help="; ".join(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--epochs", type=int, help="of training (default: 1; with --quick 2)")
    parser.add_argument("--out", type=Path, default=Path("runs/real-images"), help="folder of the searches")
    parser.add_argument("--json", type=Path, help="file of rows, one JSON object a line (default: rows.jsonl in --out)")
    parser.add_argument("--plot", type=Path, help="write a picture of the rows")
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread (default: 2)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.json or options.out / "rows.jsonl"
    seeds = options.seeds or ([0] if options.quick else [0, 1, 2, 3, 4])
    bases = ["pcdarts"] if options.quick else options.bases
    wanted = options.methods or list(METHODS)
    scale = QUICK if options.quick else FULL
    if options.epochs is not None:
        if options.epochs < 1:
            parser.error(f"--epochs {options.epochs}: must be at least 1")
        scale = dataclasses.replace(scale, epochs=options.epochs)
    done = rows_of(path)
    others = {row["epochs"] for row in done.values()} - {scale.epochs}
    if others:
        parser.error(f"{path} has rows of training for {others.pop()} epochs, not {scale.epochs}: name another --json")
    jobs = [(data, base, seed) for seed in seeds for base in bases for data in options.data]
    with workers(options.jobs) as pool:
        todo = {}
        for job in jobs:
            left = [
                name
                for name in wanted
                if (*job, name) not in done and not (METHODS[name].told and job[0] == "fashion-mnist")
            ]
            todo[pool.submit(run_all, job, left, scale, options.out, path)] = job
        for count, future in enumerate(as_completed(todo), 1):
            future.result()
            print(f"{count}/{len(todo)} {todo[future]}", file=sys.stderr)
    shown = [row for key, row in rows_of(path).items() if key[:3] in jobs]
    print("mean ± standard deviation over seeds")
    print(table(shown))
    if options.plot:
        plot(shown, options.plot)


if __name__ == "__main__":
    main()
