"""What a data set is made of, to be read before a run."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lbgnas.data.image_data import ImageData
from lbgnas.fairness.markdown import table

_MOST_ROWS = 40
_MOST_NAMES = 100


def described(data: ImageData) -> str:
    """Return how many samples each cell of label and attribute has, and what was left out, as Markdown.

    Example:
        >>> from lbgnas.data.sources import open_pool
        >>> print(described(open_pool("coloured-digits")).splitlines()[0])
        coloured-digits: 1348 images of 8 pixels, 2 classes, attribute colour
    """
    info = data.info
    about = f", attribute {info.attribute_name}" if data.attribute is not None else ""
    lines = [f"{info.name}: {len(data)} images of {info.size} pixels, {info.num_classes} classes{about}", ""]
    counts, heads = _counts(data)
    rows = [
        [name, *(str(int(value)) for value in row)]
        for name, row in zip(info.class_names, counts, strict=True)
        if len(info.class_names) <= _MOST_ROWS
    ]
    if not rows:
        totals = counts.sum(1)
        rows = [["smallest class", *[""] * (len(heads) - 1), str(int(totals.min()))]]
        rows.append(["largest class", *[""] * (len(heads) - 1), str(int(totals.max()))])
    rows.append(["all", *(str(int(value)) for value in counts.sum(0))])
    lines.append(table(["label", *heads], rows))
    if data.for_validation is not None:
        lines += ["", f"{int(data.for_validation.sum())} of them stay in the validation half of a search."]
    if info.skipped:
        lines += ["", left_out(info.skipped)]
    if info.note:
        lines += ["", info.note]
    return "\n".join(lines)


def left_out(names: Sequence[str]) -> str:
    """Return a sentence that counts and names image files that could not be read.

    Example:
        >>> left_out(["a.png", "b.png"])
        '2 images could not be read and were left out: a.png, b.png.'
    """
    more = len(names) - _MOST_NAMES
    named = ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
    counted = (
        "1 image could not be read and was" if len(names) == 1 else f"{len(names)} images could not be read and were"
    )
    return f"{counted} left out: {named}."


def _counts(data: ImageData) -> tuple[torch.Tensor, list[str]]:
    """Return the counts, label by column, and the columns' names."""
    classes = data.info.num_classes
    if data.attribute is None:
        return torch.bincount(data.labels, minlength=classes)[:, None], ["count"]
    values = max(int(data.attribute.max()) + 1, len(data.info.attribute_values))
    code = torch.where(data.attribute < 0, values, data.attribute)
    counts = torch.bincount(data.labels * (values + 1) + code, minlength=classes * (values + 1))
    table = counts.reshape(classes, values + 1)
    names = [*data.info.attribute_values] or [str(value) for value in range(values)]
    if not table[:, -1].any():
        return table[:, :-1], names
    return table, [*names, "unknown"]
