"""What a trained model says of a folder of images."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lbgnas.data.file_images import FileImages, photographs
from lbgnas.data.image_files import image_names
from lbgnas.data.synthetic import luma
from lbgnas.engine.grouped_model import GroupedModel
from lbgnas.errors import LbgnasError


@dataclass(frozen=True)
class Answer:
    """What the model says of one image.

    Attributes:
        file: its path below the folder.
        label: name of the class.
        probability: of that class, by the expert.
        expert: which one was asked.
        confidence: the gate's probability of that expert.
    """

    file: str
    label: str
    probability: float
    expert: int
    confidence: float


def predict_folder(
    model: GroupedModel, root: Path, batch_size: int = 256, skip_bad: bool = False
) -> tuple[list[Answer], tuple[str, ...]]:
    """Return an answer for every image below a folder, and the files left out.

    Args:
        model: in evaluation mode.
        root: the folder; images in folders below it count as well.
        batch_size: images at once.
        skip_bad: leave out files that cannot be decoded.

    Raises:
        LbgnasError: no such folder, no image in it, or one that cannot be decoded.
    """
    names = image_names(root)
    if not names:
        raise LbgnasError(f"{root}: holds no image")
    info = photographs("images", ("any",), model.info.size)
    data = FileImages(root, names, torch.zeros(len(names), dtype=torch.long), info, skip_bad=skip_bad)
    answers = [
        Answer(data.names[row], model.info.class_names[label], probability, expert, confidence)
        for rows, label_of in _batches(model, data, batch_size)
        for row, (label, probability, expert, confidence) in zip(rows, label_of, strict=True)
    ]
    return answers, data.info.skipped


def _batches(
    model: GroupedModel, data: FileImages, batch_size: int
) -> Iterator[tuple[list[int], list[tuple[int, float, int, float]]]]:
    device = model.get_buffer("usable").device
    for rows in torch.split(torch.arange(len(data)), batch_size):
        images = data.images(rows)
        found = model.predict((luma(images) if model.info.channels == 1 else images).to(device))
        probability, label = found.probabilities.max(1)
        columns: list[Tensor] = [label, probability, found.group, found.confidence]
        yield rows.tolist(), list(zip(*(column.tolist() for column in columns), strict=True))


def to_csv(answers: list[Answer]) -> str:
    """Return answers as CSV: file, class, probability, expert, confidence."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["file", "class", "probability", "expert", "confidence"])
    for answer in answers:
        row = [answer.file, answer.label, f"{answer.probability:.6f}", answer.expert, f"{answer.confidence:.6f}"]
        writer.writerow(row)
    return out.getvalue()
