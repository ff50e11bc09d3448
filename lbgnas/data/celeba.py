"""CelebA (Liu et al., 2015): faces with 40 binary attributes, two of them taken as label and sensitive attribute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from lbgnas.csv_files import read_columns, read_header
from lbgnas.data.file_images import FileImages, first_there, photographs
from lbgnas.data.seeds import generator
from lbgnas.errors import LbgnasError, unknown

NAME = "celeba"

_SIZE = 128
_PAPER = (7000, 1500, 1500)
_NAMED = {"Male": ("female", "male")}

Part = Literal["pool", "test"]


def load(
    path: Path,
    part: Part,
    size: int | None = None,
    target: str = "Attractive",
    sensitive: str = "Male",
    split_scheme: str = "official",
    skip_bad_images: bool = False,
) -> FileImages:
    """Return the training and validation images (pool) or the test images.

    The validation images stay in the validation half of a search.

    Args:
        path: the folder of `img_align_celeba`, `list_attr_celeba` and `list_eval_partition` (.txt as distributed, or
            .csv), or the one above, if it is called celeba.
        part: which of the two.
        size: side in pixels; None for 128.
        target: the attribute to be told; label 1 where it is present.
        sensitive: the attribute for metrics; 1 where it is present.
        split_scheme: "official", or "paper": 10,000 images of all, drawn once, as 7,000, 1,500 and 1,500.
        skip_bad_images: leave out files that cannot be decoded.

    Raises:
        LbgnasError: a file or attribute that is missing, or a line that does not fit.
    """
    homes = (path, path / NAME)
    images = first_there(f"{NAME}: img_align_celeba", *(home / "img_align_celeba" for home in homes))
    attributes = first_there(f"{NAME}: list_attr_celeba.txt", *_places(homes, "list_attr_celeba"))
    names, (labels, groups) = _attributes(attributes, (target, sensitive))
    if split_scheme == "paper":
        if len(names) < sum(_PAPER):
            raise LbgnasError(f"{attributes}: has {len(names)} images; the paper's split needs {sum(_PAPER)}")
        order = torch.randperm(len(names), generator=generator(0, NAME, "paper"))
        train, validation, test = (rows.sort().values for rows in torch.split(order[: sum(_PAPER)], list(_PAPER)))
    else:
        partition = first_there(f"{NAME}: list_eval_partition.txt", *_places(homes, "list_eval_partition"))
        parts = torch.tensor(_partition(partition, names))
        train, validation, test = ((parts == number).nonzero().squeeze(1) for number in range(3))
    rows = test if part == "test" else torch.cat([train, validation])
    held = None if part == "test" else torch.isin(rows, validation)
    info = replace(
        photographs(NAME, (f"not {target}", target), size or _SIZE),
        attribute_name=sensitive,
        attribute_values=_NAMED.get(sensitive, (f"not {sensitive}", sensitive)),
    )
    # Kaggle's copy has the folder twice, one in the other.
    inner = images / "img_align_celeba"
    return FileImages(
        inner if inner.is_dir() else images,
        [names[row] for row in rows.tolist()],
        labels[rows],
        info,
        groups[rows],
        held,
        skip_bad_images,
    )


def _places(homes: tuple[Path, ...], name: str) -> list[Path]:
    return [home / f"{name}.{suffix}" for home in homes for suffix in ("txt", "csv")]


def _attributes(path: Path, wanted: tuple[str, str]) -> tuple[list[str], tuple[torch.Tensor, torch.Tensor]]:
    """Return the images' names and the wanted attributes as 0 and 1."""
    if path.suffix == ".csv":
        known = read_header(path)[1:]
        _check_known(path, wanted, known)
        columns = read_columns(path, ["image_id", *dict.fromkeys(wanted)])
        names, raw = columns["image_id"], [columns[name] for name in wanted]
        first = 2
    else:
        lines = _lines(path)
        known = lines[1].split() if len(lines) > 1 else []
        _check_known(path, wanted, known)
        rows = [line.split() for line in lines[2:] if line.strip()]
        for number, row in enumerate(rows, 3):
            if len(row) != len(known) + 1:
                raise LbgnasError(f"{path}: line {number} has {len(row) - 1} attributes, the header {len(known)}")
        names, raw = [row[0] for row in rows], [[row[1 + known.index(name)] for row in rows] for name in wanted]
        first = 3
    found = []
    for name, values in zip(wanted, raw, strict=True):
        bad = next((k for k, value in enumerate(values) if value not in ("-1", "0", "1")), None)
        if bad is not None:
            raise LbgnasError(f"{path}: line {first + bad} has {values[bad]!r} as {name}; -1 and 1 are allowed")
        found.append(torch.tensor([int(value == "1") for value in values]))
    if not names:
        raise LbgnasError(f"{path}: names no image")
    return names, (found[0], found[1])


def _check_known(path: Path, wanted: tuple[str, str], known: list[str]) -> None:
    for flag, name in zip(("--target", "--sensitive"), wanted, strict=True):
        if name not in known:
            raise unknown("attribute", name, known, f"{flag}, {path}")


def _partition(path: Path, names: list[str]) -> list[int]:
    """Return 0 (train), 1 (validation) or 2 (test) for each image."""
    if path.suffix == ".csv":
        columns = read_columns(path, ["image_id", "partition"])
        rows = list(zip(columns["image_id"], columns["partition"], strict=True))
    else:
        rows = []
        for number, line in enumerate(_lines(path), 1):
            words = line.split()
            if len(words) not in (0, 2):
                raise LbgnasError(f"{path}: line {number} is {line!r}; an image and 0, 1 or 2 are needed")
            rows += [(words[0], words[1])] if words else []
    of = dict(rows)
    for name in names:
        if of.get(name) not in ("0", "1", "2"):
            raise LbgnasError(f"{path}: says {of.get(name)!r} of {name}; 0, 1 or 2 is needed")
    return [int(of[name]) for name in names]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LbgnasError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
