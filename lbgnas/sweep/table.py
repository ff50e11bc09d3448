"""The table of a sweep: rows of finished trials, mean and spread over seeds, as CSV, Markdown and a plot."""

from __future__ import annotations

import csv
import io
import json
import statistics
from pathlib import Path
from typing import Any

from lbgnas.files import write_text
from lbgnas.sweep.plan import LOWER_IS_BETTER, METRICS, SweepSettings
from lbgnas.sweep.trial import ROW, TRIALS

Row = dict[str, Any]


def rows_of(folder: Path) -> list[Row]:
    """Return the rows of all finished trials, in the order of their names."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"{TRIALS}/*/{ROW}"))]


def summary(sweep: SweepSettings, rows: list[Row]) -> list[Row]:
    """Return a line for each combination: seeds, mean, standard deviation and best of each metric, minutes; best first.

    The standard deviation of one seed is None.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(json.dumps([row[name] for name in sweep.vary]), []).append(row)
    lines = []
    for own in groups.values():
        line: Row = {name: own[0][name] for name in sweep.vary} | {"seeds": len(own)}
        for metric in METRICS:
            values = [float(row[metric]) for row in own if row.get(metric) is not None]
            if values:
                line[metric] = statistics.mean(values)
                line[f"{metric}_spread"] = statistics.stdev(values) if len(values) > 1 else None
                line[f"{metric}_best"] = (min if metric in LOWER_IS_BETTER else max)(values)
        line["parameters"] = statistics.mean(row["parameters"] for row in own)
        line["minutes"] = statistics.mean(row["minutes"] for row in own)
        lines.append(line)
    sign = 1 if sweep.metric in LOWER_IS_BETTER else -1
    return sorted(lines, key=lambda line: sign * line.get(sweep.metric, float("inf") * sign))


def markdown(sweep: SweepSettings, lines: list[Row]) -> str:
    """Return the summary as a Markdown table."""
    metrics = [metric for metric in METRICS if any(metric in line for line in lines)]
    header = [*sweep.vary, "seeds", *metrics, f"best {sweep.metric}", "parameters", "minutes"]
    text = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for line in lines:
        cells = [str(line[name]) for name in sweep.vary] + [str(line["seeds"])]
        for metric in metrics:
            spread = line.get(f"{metric}_spread")
            cells.append(
                f"{line[metric]:.4f}" + (f" ± {spread:.4f}" if spread is not None else "") if metric in line else ""
            )
        best = line.get(f"{sweep.metric}_best")
        cells += ["" if best is None else f"{best:.4f}", f"{line['parameters']:,.0f}", f"{line['minutes']:.1f}"]
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def csv_text(lines: list[Row]) -> str:
    """Return the summary as CSV."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def plot(sweep: SweepSettings, rows: list[Row], lines: list[Row], path: Path) -> None:
    """Draw the metric of every trial, a dot a seed, by combination, the best first."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [", ".join(f"{name}={line[name]}" for name in sweep.vary) or "all" for line in lines]
    figure, axis = pyplot.subplots(figsize=(7, 1 + 0.35 * len(lines)))
    for place, line in enumerate(lines):
        own = [row[sweep.metric] for row in rows if all(row[name] == line[name] for name in sweep.vary)]
        axis.plot(own, [place] * len(own), "o", alpha=0.6, color="tab:blue")
        axis.plot([line[sweep.metric]], [place], "|", markersize=14, color="black")
    axis.set_yticks(range(len(lines)), names)
    axis.invert_yaxis()
    axis.set_xlabel(sweep.metric)
    axis.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def write_table(sweep: SweepSettings, folder: Path) -> str:
    """Write table.csv, table.md and, where matplotlib is installed, table.png; return the Markdown."""
    rows = rows_of(folder)
    lines = summary(sweep, rows)
    text = markdown(sweep, lines)
    write_text(folder / "table.csv", csv_text(lines))
    write_text(folder / "table.md", text)
    try:
        plot(sweep, rows, lines, folder / "table.png")
    except ModuleNotFoundError:
        text += "\nno plot: matplotlib is not installed (pip install 'lbgnas[report]')\n"
    return text
