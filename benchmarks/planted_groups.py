"""Are planted groups found, and is it worth it? Print and save a table for each planted problem.

    python -m benchmarks.planted_groups [--quick] [--problems NAME ...] [--methods NAME ...] [--seeds 0 1 2 3 4]
    python -m benchmarks.planted_groups --remedies --problems inverted rotations --json FILE

Mean and standard deviation over seeds. ARI is the adjusted Rand index against the planted groups; the equal-sized
single networks count the gate in. Rows that --json FILE already holds are not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from concurrent.futures import as_completed
from pathlib import Path

from benchmarks.planted.methods import FULL, METHODS, TRIED, measured, scouts_of
from benchmarks.planted.problems import PROBLEMS
from benchmarks.workers import workers

COLUMNS = {
    "error": "error %",
    "worst_group_error": "worst group's error %",
    "ari_gate": "ARI gate",
    "ari_assignments": "ARI C",
    "min_share": "smallest share",
    "seconds": "CPU seconds",
}
QUICK = ("xor", "linear-3", "inverted")
Row = dict[str, object]


def run(problem: str, methods: list[str], seed: int, epochs: int | None) -> list[Row]:
    """Run methods that share their scouts."""
    made = PROBLEMS[problem](seed)
    return [measured(made, method, seed, epochs) for method in methods]


def together(methods: list[str]) -> list[list[str]]:
    """Return the methods, those that begin with the same scouts as one job."""
    scouts = {method: scouts_of(method) for method in methods}
    shared = [[method for method in methods if scouts[method] == own] for own in dict.fromkeys(scouts.values()) if own]
    return [*shared, *([method] for method in methods if not scouts[method])]


def cell(rows: list[Row], name: str) -> str:
    values = [float(str(row[name])) for row in rows if row[name] is not None]
    if not values:
        return ""
    digits = 1 if name in ("error", "worst_group_error", "seconds") else 2
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def table(rows: list[Row]) -> str:
    lines = []
    for problem in [name for name in PROBLEMS if any(row["problem"] == name for row in rows)]:
        lines += [f"\n### {problem}\n", "| method | " + " | ".join(COLUMNS.values()) + " |"]
        lines.append("|" + " --- |" * (len(COLUMNS) + 1))
        for method in METHODS:
            own = [row for row in rows if (row["problem"], row["method"]) == (problem, method)]
            if own:
                lines.append(f"| {method} | " + " | ".join(cell(own, name) for name in COLUMNS) + " |")
    return "\n".join(lines)


def summary(rows: list[Row]) -> str:
    """Return one table of all problems: the error over seeds and, in brackets, the mean ARI of the gate."""
    problems = [name for name in PROBLEMS if any(row["problem"] == name for row in rows)]
    lines = ["| error % (ARI gate) | " + " | ".join(problems) + " |", "|" + " --- |" * (len(problems) + 1)]
    for method in [name for name in METHODS if any(row["method"] == name for row in rows)]:
        cells = []
        for problem in problems:
            own = [row for row in rows if (row["problem"], row["method"]) == (problem, method)]
            found = [float(str(row["ari_gate"])) for row in own if row["ari_gate"] is not None]
            mean = f" ({round(statistics.mean(found), 2) + 0.0:.2f})" if found else ""
            cells.append(cell(own, "error") + mean)
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"one seed of {', '.join(QUICK)}, a third of the epochs")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, metavar="NAME", help=", ".join(PROBLEMS))
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--methods", nargs="+", choices=METHODS, metavar="NAME", help="; ".join(FULL))
    which.add_argument("--remedies", action="store_true", help=f"what else was tried: {'; '.join(TRIED)}")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--json", type=Path, help="file of rows, read before and written after each run")
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread (default: 2)")
    options = parser.parse_args()
    seeds = options.seeds or ([0] if options.quick else [0, 1, 2, 3, 4])
    problems = options.problems or (QUICK if options.quick else list(PROBLEMS))
    rows: list[Row] = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
    done = {(row["problem"], row["method"], row["seed"]) for row in rows}
    methods = options.methods or (TRIED if options.remedies else FULL)
    wanted = [(problem, method, seed) for seed in seeds for problem in problems for method in methods]
    jobs = [
        (problem, methods, seed)
        for seed in seeds
        for problem in problems
        for methods in together([name for key, name, number in wanted if (key, number) == (problem, seed)])
    ]
    with workers(options.jobs) as pool:
        todo = {
            pool.submit(run, problem, left, seed, 5 if options.quick else None): (problem, left, seed)
            for problem, methods, seed in jobs
            if (left := [method for method in methods if (problem, method, seed) not in done])
        }
        for count, future in enumerate(as_completed(todo), 1):
            rows += future.result()
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1))
            problem, methods, seed = todo[future]
            print(f"{count}/{len(todo)} {problem}, {' and '.join(methods)}, seed {seed}", file=sys.stderr)
    order = {job: index for index, job in enumerate(wanted)}
    shown = [row for row in rows if (row["problem"], row["method"], row["seed"]) in order]
    print(f"seeds {', '.join(map(str, seeds))}; mean ± standard deviation")
    print(f"\n{summary(shown)}\n{table(shown)}")


if __name__ == "__main__":
    main()
