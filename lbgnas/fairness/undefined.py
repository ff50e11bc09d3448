"""Sentences about what cannot be estimated."""

from __future__ import annotations

import math
from collections.abc import Sequence


def gaps_in_data(cells: Sequence[tuple[int, str, str, int]], positive: Sequence[int] | None) -> list[str]:
    """Return a sentence for each empty cell that leaves a rate undefined.

    Args:
        cells: (label, its name, the group's name, count), every label with every group.
        positive: labels taken as positive; None for one-vs-rest.
    """
    said = []
    for group in dict.fromkeys(name for _, _, name, _ in cells):
        mine = [(label, label_name, count) for label, label_name, name, count in cells if name == group]
        total = sum(count for _, _, count in mine)
        if not total:
            said.append(f"Group {group} has 0 samples, so all of its rates are undefined.")
            continue
        for label, label_name, count in mine:
            if not count:
                rate = "recall of that label"
                if positive is not None:
                    rate = "true-positive rate" if label in positive else "false-positive rate"
                said.append(
                    f"None of the {total} samples of group {group} has label {label_name}, so its {rate} is undefined."
                )
            elif positive is None and count == total:
                said.append(
                    f"All {total} samples of group {group} have label {label_name}, "
                    "so its false-positive rate for that label is undefined."
                )
    return said


def undefined_metrics(metrics: dict[str, float], per_class: dict[str, dict[str, float]]) -> list[str]:
    """Return a sentence for the metrics that are NaN, and one for each set of labels a macro mean leaves out."""
    said = []
    lost = [name for name, value in metrics.items() if math.isnan(value)]
    if lost:
        said.append(f"Undefined, since too few groups have the rates they need: {', '.join(lost)}.")
    left_out: dict[tuple[str, ...], list[str]] = {}
    for name in metrics:
        out = tuple(label for label, part in per_class.items() if math.isnan(part.get(name, 0.0)))
        if out and name not in lost:
            left_out.setdefault(out, []).append(name)
    for out, names in left_out.items():
        said.append(f"The macro mean leaves out label {', '.join(out)} in: {', '.join(names)}.")
    return said
