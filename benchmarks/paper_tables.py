"""Lay out a table of the LBG paper: its published figures beside those of our result files.

    python benchmarks/paper_tables.py --table 3 --runs FOLDER [FOLDER ...]   read results.json below these folders
    python benchmarks/paper_tables.py --table 3 --laptop [--seeds 0 1]       run every row, small, on stand-in data
    python benchmarks/paper_tables.py --table 3 --commands --data cifar10:PATH ...   print how the rows are made

docs/paper-tables.md says what the tables are. --laptop has one thread and is resumable: a finished row is read, not
run again, and an interrupted one goes on. Its stand-ins are other data: only the layout is that of the paper.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import runpy
import shutil
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lbgnas.cli import guarded
from lbgnas.config import merged
from lbgnas.errors import LbgnasError

ROOT = Path(__file__).parent.parent
TABLES = yaml.safe_load((Path(__file__).parent / "paper_tables.yaml").read_text(encoding="utf-8"))
SETTINGS = yaml.safe_load((Path(__file__).parent / "paper_settings.yaml").read_text(encoding="utf-8"))
TITLES = {"error": "error (%)", "top5": "top-5 error (%)", "parameters": "parameters (M)", "cost": "search (days)"}
MIXED = ("ensemble", "moe")
MISSING = "data not here"


@dataclass(frozen=True)
class Result:
    """What one run measured: of which row, on which data, with which seed."""

    run: dict[str, Any]
    data: str
    seed: int
    values: dict[str, float | None]
    collapsed: bool
    folder: Path


def read_result(folder: Path) -> Result:
    """Return the result of a run of tools/train_groups.py or tools/evaluate.py."""
    try:
        found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        run = {name: settings[name] for name in ("method", "experts") if name in settings}
        if "genotype" in settings:
            run = {"base": found["base"], "grouping": found["grouping"]}
            run |= {"ensemble": settings["ensemble"]} if settings["ensemble"] else {}
        mixed = "ensemble" in run or run.get("method") in MIXED
        report = found["fairness"].get("mixture" if mixed else "routed", {"metrics": {}, "collapsed": False})
        fairness = report["metrics"]
        top5 = found["routed_top5_accuracy"]
        values = {
            **fairness,
            "deo": fairness.get("deo_sum"),
            "error": 100 * (1 - found["mixture_accuracy" if mixed else "routed_accuracy"]),
            "top5": None if top5 is None or mixed else 100 * (1 - top5),
            "parameters": found["parameters"] / 1e6,
            "cost": _cost(settings),
        }
        return Result(run, found["data"], settings["seed"], values, report["collapsed"], folder)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise LbgnasError(f"{folder}: holds no result of this version ({type(error).__name__}: {error})") from None


def _cost(settings: Mapping[str, Any]) -> float | None:
    """Return the days of the search whose genotype was trained, None if its records are not beside it."""
    records = Path(settings.get("genotype", "")).parent / "metrics.jsonl"
    if "genotype" not in settings or not records.is_file():
        return None
    return sum(json.loads(line)["seconds"] for line in records.read_text().splitlines()) / 86400


def cell(values: Sequence[float | None]) -> str:
    """Return mean and standard deviation over runs, a plain word where there is nothing to show."""
    known = [value for value in values if value is not None]
    if not values or not known:
        return "undefined" if values else ""
    mean = statistics.mean(known)
    digits = 2 if mean >= 1 else 4
    return f"{mean:.{digits}f}" + (f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else "")


def layout(table: Mapping[str, Any], found: Sequence[Result], marks: Mapping[str, str]) -> str:
    """Return the table as Markdown.

    Args:
        table: its entry in paper_tables.yaml; `stand_ins` says on which data ours was measured.
        found: results.
        marks: for each data set what stands in a row without a result.
    """
    measured = [*table["metrics"], *table["beside"]]
    heads = [f"{TITLES.get(m, m)}, {who}" for m in table["metrics"] for who in ("paper", "ours")]
    heads += [f"{TITLES.get(m, m)}, ours" for m in table["beside"]]
    lines = [["row", "data", "ours on", *heads, "runs"]]
    lines.append(["---"] * len(lines[0]))
    for row in table["rows"]:
        for data in table["stand_ins"][row["data"]]:
            own = [result for result in found if result.run == row["run"] and result.data == data]
            ours = {m: cell([result.values.get(m) for result in own]) for m in measured}
            if not own:
                ours[measured[0]] = marks[data]
            figures = [part for m in table["metrics"] for part in (_published(row["published"].get(m)), ours[m])]
            figures += [ours[m] for m in table["beside"]]
            collapsed = sum(result.collapsed for result in own)
            told = f" ({collapsed} with one answer for all)" if collapsed else ""
            lines.append([row["name"], row["data"], data, *figures, f"{len(own)}{told}"])
    notes = [f"- {note}" for note in table["notes"]]
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ([""] if notes else []) + notes) + "\n"


def _published(value: float | Sequence[float] | None) -> str:
    return "" if value is None else " ± ".join(map(str, value)) if isinstance(value, list) else str(value)


def read_runs(folders: Sequence[Path], table: Mapping[str, Any]) -> list[Result]:
    """Return the results below the folders that belong to a row of the table; one for each seed."""
    found: dict[str, Result] = {}
    for folder in folders:
        places = sorted(path.parent for path in folder.rglob("results.json"))
        if not places:
            raise LbgnasError(f"--runs {folder}: no results.json is there or below")
        for result in map(read_result, places):
            if not any(row["run"] == result.run and row["data"] == result.data for row in table["rows"]):
                print(f"{result.folder}: {result.run} on {result.data} is no row of this table", file=sys.stderr)
                continue
            key = f"{result.run} {result.data} {result.seed}"
            if key in found:
                raise LbgnasError(f"{result.folder}: the same row and seed as {found[key].folder}; leave one out")
            found[key] = result
    return list(found.values())


def flags(settings: Mapping[str, Any], above: str = "--") -> Iterator[str]:
    """Yield nested settings as the tools' flags."""
    for name, value in settings.items():
        flag = above + name.replace("_", "-")
        if isinstance(value, Mapping):
            yield from flags(value, f"{flag}.")
        else:
            yield from (flag, str(value))


def stages(run: Mapping[str, Any], own: Mapping[str, Any], data: str, searched: str, seed: int, place: Path) -> Any:
    """Return tool, arguments and folder of each of a row's runs.

    Args:
        run: of the row.
        own: settings by section.
        data, searched: NAME[:PATH] to train and test on, and to search on.
        seed, place: of the runs.
    """
    common = {"seed": seed}
    if "method" in run:
        wanted = merged(dict(own.get("groups", {})), {**run, "data": data, **common})
        return [("train_groups", list(flags(wanted)), place)]
    search = merged(dict(own.get("search", {})), {"base": run["base"], "grouping": run["grouping"], "data": searched})
    train = {"genotype": place / "search" / "genotype.json", "data": data, **common}
    train |= {"ensemble": run["ensemble"]} if "ensemble" in run else {}
    return [
        ("search", list(flags({**search, **common})), place / "search"),
        ("evaluate", list(flags(merged(dict(own.get("evaluation", {})), train))), place / "evaluate"),
    ]


def small(table: Mapping[str, Any], options: argparse.Namespace) -> list[Result]:
    """Run every row of the table on its stand-ins, or read what is finished; return the results."""
    own = {section: dict(values) for section, values in SETTINGS["laptop"].items()}
    for section in own.values():
        for name in ("limit", "epochs"):
            section |= {} if getattr(options, name) is None else {name: getattr(options, name)}
    if options.epochs is not None:
        own["groups"] = merged(own["groups"], {"finetune": {"epochs": options.epochs}})
    found = {}
    for seed in options.seeds:
        for row in table["rows"]:
            for data in table["stand_ins"][row["data"]]:
                # The settings are in the name: a row of other settings is another run.
                digest = hashlib.sha256(json.dumps(own).encode()).hexdigest()
                name = "-".join(map(str, (data, *row["run"].values(), seed, digest[:8])))
                place = options.out / name
                if name not in found and not _unavailable(data):
                    for tool, given, folder in stages(row["run"], own, data, data, seed, place):
                        _run(tool, given, folder)
                    found[name] = read_result(place if "method" in row["run"] else place / "evaluate")
    return list(found.values())


def _run(tool: str, given: Sequence[str], folder: Path) -> None:
    """Let a tool make what is not there yet; its output goes to a file beside the folder."""
    if (folder / ("genotype.json" if tool == "search" else "results.json")).exists():
        return
    begun = (folder / "config.yaml").exists()
    if not begun:
        shutil.rmtree(folder, ignore_errors=True)  # stopped before its first step
    told = ["--resume", str(folder)] if begun else ["--preset", "quick", *given, "--out", str(folder)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"{tool} {folder}", file=sys.stderr)
    with (folder.parent / f"{folder.name}.log").open("a") as log, contextlib.redirect_stdout(log):
        runpy.run_path(str(ROOT / "tools" / f"{tool}.py"))["run"]([*told, "--device", "cpu", "--threads", "1"])


@functools.cache
def _unavailable(spec: str) -> str | None:
    """Return why data cannot be opened, None if they can."""
    from lbgnas.data.sources import open_pool

    try:
        open_pool(spec, limit=20)
    except LbgnasError as error:
        return str(error)
    return None


def commands(table: Mapping[str, Any], number: str, places: Mapping[str, str], seeds: Sequence[int]) -> Iterator[str]:
    """Yield the command lines that make the rows with the paper's data and settings."""
    for row in table["rows"]:
        data = places.get(row["data"], f"{row['data']}:PATH")
        searched = table.get("searched_on", row["data"])
        searched = places.get(searched, f"{searched}:PATH")
        for seed in seeds:
            place = Path("runs") / f"table-{number}" / "-".join(map(str, (row["data"], *row["run"].values(), seed)))
            own = SETTINGS["commands"][row["data"]]
            for tool, given, folder in stages(row["run"], own, data, searched, seed, place):
                yield f"python tools/{tool}.py --preset paper-cifar {' '.join(given)} --out {folder}"


def run(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True, choices=list(TABLES))
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--runs", type=Path, nargs="+", default=[], metavar="FOLDER", help="folders of our runs")
    one.add_argument("--laptop", action="store_true", help="run every row, small, on stand-in data")
    one.add_argument("--commands", action="store_true", help="print how the rows are made with the paper's data")
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME:PATH", help="where the table's data lie")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--limit", type=int, help="of --laptop: images")
    parser.add_argument("--epochs", type=int, help="of --laptop: epochs of every stage")
    parser.add_argument("--out", type=Path, default=Path("runs/paper-tables"), help="of --laptop")
    options = parser.parse_args(argv)
    table = dict(TABLES[options.table])
    places = {spec.partition(":")[0]: spec for spec in options.data}
    if options.commands:
        print(*commands(table, options.table, places, options.seeds), sep="\n")
        return
    if options.laptop:
        found = small(table, options)
    else:
        table["stand_ins"] = {row["data"]: [row["data"]] for row in table["rows"]}
        found = read_runs(options.runs, table)
    used = {data for some in table["stand_ins"].values() for data in some}
    away = {data: _unavailable(places.get(data, data)) for data in sorted(used)}
    marks = {data: "not run" if why is None else MISSING for data, why in away.items()}
    print(f"Table {options.table} of the LBG paper: {table['title']}\n")
    print(layout(table, found, marks))
    for data, why in away.items():
        if why is not None and not any(result.data == data for result in found):
            print(f"{data}: {why}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(guarded("paper_tables", run))
