"""Search and evaluate with the quick preset for several bases, groupings and seeds; print and save a table.

    python benchmarks/quick_results.py [--bases pcdarts] [--groupings none lbg dalbg] [--seeds 0 1 2] [--scouts N] \\
        [--out runs/quick-results]

The README's table is of one base, that of docs/bases.md of all: --bases darts pdarts pcdarts darts-

Resumable: what is finished in --out is read, not run again. Every run has one thread; two run at a time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHOWN = ("dp", "deo_sum", "worst_group_accuracy")


def tool(name: str, *arguments: object) -> None:
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments), "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")


def one(out: Path, scouts: int | None, base: str, grouping: str, seed: int) -> dict[str, object]:
    folder = out / f"{base}-{grouping}-{seed}"
    result = folder / "evaluate" / "results.json"
    start = [] if scouts is None else ["--gate.scouts", scouts]
    if not result.exists():
        for stage, arguments in (
            ("search", ["--base", base, "--grouping", grouping, "--seed", seed, *start]),
            ("evaluate", ["--genotype", folder / "search" / "genotype.json", "--seed", seed]),
        ):
            place = folder / stage
            if (place / "config.yaml").exists():
                tool(stage, "--resume", place)
            else:
                tool(stage, *arguments, "--out", place)
    measured = json.loads(result.read_text())
    fairness = measured["fairness"]["routed"]["metrics"]
    records = [json.loads(line) for line in (folder / "search" / "metrics.jsonl").read_text().splitlines()]
    return {
        "base": base,
        "grouping": grouping,
        "seed": seed,
        "accuracy": measured["routed_accuracy"],
        "mixture": measured["mixture_accuracy"],
        **{name: fairness[name] for name in SHOWN},
        "parameters": measured["parameters"],
        "macs": measured["macs_per_sample"]["routed"],
        "smallest_share": min(records[-1]["group_share"]),
        "search_minutes": sum(record["seconds"] for record in records) / 60,
    }


def spread(values: list[float]) -> str:
    width = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.3f} ± {width:.3f}"


def table(rows: list[dict]) -> str:
    names = ("accuracy", "mixture", "worst_group_accuracy", "dp", "deo_sum", "smallest_share")
    header = ["base", "grouping", *(name.replace("_", " ") for name in names), "parameters", "MACs", "search minutes"]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for base, grouping in dict.fromkeys((row["base"], row["grouping"]) for row in rows):
        own = [row for row in rows if (row["base"], row["grouping"]) == (base, grouping)]
        cells = [spread([row[name] for row in own]) for name in names]
        sizes = [f"{statistics.mean(row[name] for row in own):,.0f}" for name in ("parameters", "macs")]
        minutes = f"{statistics.mean(row['search_minutes'] for row in own):.1f}"
        lines.append("| " + " | ".join([base, grouping, *cells, *sizes, minutes]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--groupings", nargs="+", default=["none", "lbg", "dalbg"], choices=["none", "lbg", "dalbg"])
    parser.add_argument("--bases", nargs="+", default=["pcdarts"], choices=["darts", "pdarts", "pcdarts", "darts-"])
    parser.add_argument("--scouts", type=int, help="of every search (default: the product's own)")
    parser.add_argument("--out", type=Path, default=Path("runs/quick-results"))
    options = parser.parse_args()
    jobs = [(b, g, seed) for seed in options.seeds for b in options.bases for g in options.groupings]
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda job: one(options.out, options.scouts, *job), jobs))
    rows.sort(key=lambda row: (options.bases.index(row["base"]), options.groupings.index(row["grouping"])))
    text = table(rows)
    (options.out / "table.md").write_text(text + "\n")
    (options.out / "rows.json").write_text(json.dumps(rows, indent=1))
    seeds = ", ".join(map(str, options.seeds))
    print(f"coloured-digits, preset quick, seeds {seeds}; mean ± standard deviation\n\n{text}")


if __name__ == "__main__":
    main()
