"""A fairness audit as files: Markdown to read, CSV to go on with, a plot."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lbgnas.fairness.divergence import Divergence
from lbgnas.fairness.result import FairnessReport
from lbgnas.files import write_text

NO_PLOT = "no plot, for matplotlib was not found: pip install 'lbgnas[report]'"
_PLOTTED = ("dp", "deo_sum", "deo_max", "deo_opp", "tprd", "fprd", "worst_group_accuracy")
_MOST_CELLS = 16


def write_audit(
    stem: Path, title: str, reports: Mapping[str, FairnessReport], divergence: Divergence | None = None
) -> tuple[list[Path], str]:
    """Write `stem`.md, `stem`.csv and, with matplotlib, `stem`.svg; return the paths and what is amiss.

    Args:
        stem: path of the files without their suffix.
        title: what was audited.
        reports: one for each part (such as an expert, or the mixture), by its name.
        divergence: of the scores, where there are any.

    Raises:
        LbgnasError: a place that cannot be written.
    """
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("md", "csv", "svg")]
    write_text(paths[0], markdown(title, reports, divergence))
    write_text(paths[1], comma_separated(reports, divergence))
    drawn = picture(title, reports)
    if drawn is None:
        return paths[:2], NO_PLOT
    write_text(paths[2], drawn)
    return paths, ""


def say_audit(folder: Path, data: str, reports: Mapping[str, FairnessReport], say: Callable[[str], None]) -> None:
    """Write the audit that a run ends with into its folder, if its data has a sensitive attribute, and say where."""
    if reports:
        paths, amiss = write_audit(folder / "audit", f"test split of {data}", reports)
        say(f"audit: {', '.join(map(str, paths))}{f' ({amiss})' if amiss else ''}")


def markdown(title: str, reports: Mapping[str, FairnessReport], divergence: Divergence | None = None) -> str:
    """Return the audit to be read."""
    blocks = [f"# Audit: {title}"]
    for name, report in reports.items():
        blocks += [f"## {name}", report.to_markdown().rstrip()]
    if divergence is not None:
        rows = [
            f"- {'positive' if positive else 'negative'} label, {_name(one)} against {_name(other)}: {value:.4f}"
            for (positive, one, other), value in divergence.values.items()
        ]
        text = f"Mean {divergence.mean:.4f}"
        if divergence.median is not None:
            text += (
                f"; over bootstrap samples median {divergence.median:.4f}, standard deviation {divergence.spread:.4f}"
            )
        blocks += ["## Kullback-Leibler divergence of the scores between groups", f"{text}.", "\n".join(rows)]
    return "\n\n".join(blocks) + "\n"


def comma_separated(reports: Mapping[str, FairnessReport], divergence: Divergence | None = None) -> str:
    """Return the audit as CSV: one line a number, empty where it is undefined."""
    lines: list[list[Any]] = [["part", "metric", "label", "group", "value", "low", "high", "count"]]
    for part, report in reports.items():
        for name, value in {"accuracy": report.accuracy, **report.metrics}.items():
            found = report.intervals.get(name)
            ends = [found.low, found.high] if found else ["", ""]
            lines.append([part, name, "", "", value, *ends, report.samples])
        for label, values in report.per_class.items():
            lines += [[part, name, label, "", value, "", "", ""] for name, value in values.items()]
        for cell in report.cells:
            place = [cell.label_name, cell.attribute_name]
            lines.append([part, "cell_accuracy", *place, cell.accuracy, "", "", cell.count])
            lines.append([part, "cell_predicted_positive", *place, cell.predicted_positive_rate, "", "", cell.count])
    if divergence is not None:
        for (positive, one, other), value in divergence.values.items():
            label = "positive" if positive else "negative"
            lines.append(["all", "kl", label, f"{_name(one)} || {_name(other)}", value, "", "", ""])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for line in lines:
        writer.writerow(["" if isinstance(item, float) and math.isnan(item) else item for item in line])
    return out.getvalue()


def picture(title: str, reports: Mapping[str, FairnessReport]) -> str | None:
    """Return an SVG, accuracy by cell beside metrics with intervals, a row for each part; None without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    import matplotlib

    # Same numbers, same bytes: no date, and ids that do not change.
    with matplotlib.rc_context({"svg.hashsalt": "lbgnas", "svg.fonttype": "none"}):
        height = 1.2 + 2.4 * len(reports)
        figure = Figure(figsize=(10, height), layout="constrained")
        axes = figure.subplots(len(reports), 2, squeeze=False)
        for (name, report), (left, right) in zip(reports.items(), axes, strict=True):
            _draw_cells(left, report)
            _draw_metrics(right, report)
            left.set_ylabel(name)
        axes[-1][0].set_xlabel(f"accuracy of label and group (count), the {_MOST_CELLS} lowest at most")
        axes[-1][1].set_xlabel("metric" + (", interval" if any(r.intervals for r in reports.values()) else ""))
        figure.suptitle(title)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _draw_cells(axis: Any, report: FairnessReport) -> None:
    cells = sorted((cell for cell in report.cells if cell.count), key=lambda cell: cell.accuracy)[:_MOST_CELLS]
    names = [f"{cell.label_name}, {cell.attribute_name} ({cell.count})" for cell in cells]
    groups = list(dict.fromkeys(cell.attribute_name for cell in report.cells))
    colours = [f"C{groups.index(cell.attribute_name) % 10}" for cell in cells]
    axis.barh(range(len(cells)), [cell.accuracy for cell in cells], color=colours)
    axis.set_yticks(range(len(cells)), names, fontsize=7)
    axis.set_xlim(0, 1)
    axis.invert_yaxis()


def _draw_metrics(axis: Any, report: FairnessReport) -> None:
    values = {"accuracy": report.accuracy, **{name: report.metrics[name] for name in _PLOTTED}}
    for row, (name, value) in enumerate(values.items()):
        found = report.intervals.get(name)
        if math.isnan(value):
            axis.text(0.02, row, "undefined", va="center", fontsize=7)
        elif found is not None and not math.isnan(found.low):
            axis.plot([found.low, found.high], [row, row], color="0.6", linewidth=3, solid_capstyle="butt")
        axis.plot([value], [row], "o", color="C0")
    axis.set_yticks(range(len(values)), list(values), fontsize=7)
    ends = [*values.values(), *(report.intervals[name].high for name in values if name in report.intervals)]
    axis.set_xlim(0, max(1.0, *(end for end in ends if not math.isnan(end))) * 1.02)
    axis.grid(axis="x", alpha=0.3)
    axis.invert_yaxis()


def _name(group: object) -> str:
    return " & ".join(map(str, group)) if isinstance(group, tuple) else str(group)
