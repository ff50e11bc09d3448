"""Search and evaluate with the quick preset for several seeds and groupings; print and save the table of the README.

    python benchmarks/quick_results.py [--seeds 0 1 2] [--groupings none lbg dalbg] [--out runs/quick-results]

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


def one(out: Path, base: str, grouping: str, seed: int) -> dict[str, object]:
    folder = out / f"{base}-{grouping}-{seed}"
    result = folder / "evaluate" / "results.json"
    if not result.exists():
        for stage, arguments in (
            ("search", ["--base", base, "--grouping", grouping, "--seed", seed]),
            ("evaluate", ["--genotype", folder / "search" / "genotype.json", "--seed", seed]),
        ):
            place = folder / stage
            if (place / "config.yaml").exists():
                tool(stage, "--resume", place)
            else:
                tool(stage, *arguments, "--out", place)
    measured = json.loads(result.read_text())
    fairness = measured["fairness"]["routed"]["metrics"]
    last = (folder / "search" / "metrics.jsonl").read_text().splitlines()[-1]
    return {
        "base": base,
        "grouping": grouping,
        "seed": seed,
        "accuracy": measured["routed_accuracy"],
        "mixture": measured["mixture_accuracy"],
        **{name: fairness[name] for name in SHOWN},
        "parameters": measured["parameters"],
        "macs": measured["macs_per_sample"]["routed"],
        "smallest_share": min(json.loads(last)["group_share"]),
    }


def spread(values: list[float]) -> str:
    width = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.3f} ± {width:.3f}"


def table(rows: list[dict]) -> str:
    names = ("accuracy", "mixture", "worst_group_accuracy", "dp", "deo_sum", "smallest_share")
    header = ["grouping", *(name.replace("_", " ") for name in names), "parameters", "MACs"]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for grouping in dict.fromkeys(row["grouping"] for row in rows):
        own = [row for row in rows if row["grouping"] == grouping]
        cells = [spread([row[name] for row in own]) for name in names]
        sizes = [f"{statistics.mean(row[name] for row in own):,.0f}" for name in ("parameters", "macs")]
        lines.append("| " + " | ".join([grouping, *cells, *sizes]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--groupings", nargs="+", default=["none", "lbg", "dalbg"], choices=["none", "lbg", "dalbg"])
    parser.add_argument("--base", default="pcdarts", choices=["darts", "pcdarts"])
    parser.add_argument("--out", type=Path, default=Path("runs/quick-results"))
    options = parser.parse_args()
    jobs = [(grouping, seed) for seed in options.seeds for grouping in options.groupings]
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda job: one(options.out, options.base, *job), jobs))
    rows.sort(key=lambda row: options.groupings.index(row["grouping"]))
    text = table(rows)
    (options.out / "table.md").write_text(text + "\n")
    (options.out / "rows.json").write_text(json.dumps(rows, indent=1))
    seeds = ", ".join(map(str, options.seeds))
    print(f"coloured-digits, base {options.base}, preset quick, seeds {seeds}; mean ± standard deviation\n\n{text}")


if __name__ == "__main__":
    main()
