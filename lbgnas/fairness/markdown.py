"""Tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose columns line up.

    Example:
        >>> print(table(["a", "bb"], [["1", "2"]]))
        | a   | bb  |
        | --- | --- |
        | 1   | 2   |
    """
    lines = [list(map(escaped, line)) for line in (head, ["---"] * len(head), *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def escaped(text: str) -> str:
    """Return a text that stays within its cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def number(value: float) -> str:
    """Return a number with four places, or that it is undefined."""
    return "undefined" if math.isnan(value) else f"{value:.4f}"
