"""ISIC 2018, task 3: photographs of skin lesions in seven classes, with the patient's sex from the metadata."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from lbgnas.csv_files import read_columns, read_header
from lbgnas.data.file_images import FileImages, first_there, photographs
from lbgnas.errors import LbgnasError

NAME = "isic18"
CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")

_SIZE = 224
_SEXES = ("male", "female")
_FOLDERS = {"Training": "ISIC18_train", "Validation": "ISIC18_val", "Test": "ISIC18_test"}

Part = Literal["pool", "test"]


def load(
    path: Path,
    part: Part,
    size: int | None = None,
    split_scheme: str = "official",
    skip_bad_images: bool = False,
) -> FileImages:
    """Return the images of training and validation (pool) or of the test; attribute: 0 male, 1 female, -1 unknown.

    The validation images stay in the validation half of a search.

    Args:
        path: holds `ISIC2018_Task3_{Training,Validation,Test}_GroundTruth.csv`, the folders `..._Input` of images
            (or ISIC18_train, ISIC18_val, ISIC18_test), and `metadata.csv` (or HAM10000_metadata.csv, which knows
            the training images only).
        part: which of the two.
        size: side in pixels; None for 224.
        split_scheme: "official", or "paper": the official test images for validation, the 193 of the official
            validation for the test, as in the code of the LBG paper.
        skip_bad_images: leave out files that cannot be decoded.

    Raises:
        LbgnasError: a file that is missing, or a line that does not fit.
    """
    validation, test = ("Validation", "Test") if split_scheme == "official" else ("Test", "Validation")
    sexes = _sexes(path)
    names: list[str] = []
    labels: list[int] = []
    groups: list[int] = []
    held: list[bool] = []
    for section in (test,) if part == "test" else ("Training", validation):
        images = first_there(
            f"{NAME}: the folder of the {section.lower()} images",
            path / f"ISIC2018_Task3_{section}_Input",
            path / _FOLDERS[section],
        )
        for image, label in _truth(path, section):
            names.append(f"{images.name}/{image}{_suffix(images, image)}")
            labels.append(label)
            groups.append(sexes.get(image, -1))
            held.append(section != "Training")
    info = replace(
        photographs(NAME, CLASSES, size or _SIZE),
        attribute_name="sex",
        attribute_values=_SEXES,
        note="images of unknown sex are used for training and left out of the fairness metrics",
    )
    return FileImages(
        path,
        names,
        torch.tensor(labels),
        info,
        torch.tensor(groups),
        None if part == "test" else torch.tensor(held),
        skip_bad_images,
    )


def _truth(path: Path, section: str) -> list[tuple[str, int]]:
    """Return the images of one section with their labels."""
    name = f"ISIC2018_Task3_{section}_GroundTruth"
    table = first_there(f"{NAME}: {name}.csv", path / f"{name}.csv", path / name / f"{name}.csv")
    columns = read_columns(table, ["image", *CLASSES])
    found = []
    for row, image in enumerate(columns["image"]):
        values = [columns[label][row] for label in CLASSES]
        ones = [index for index, value in enumerate(values) if value in ("1", "1.0")]
        if len(ones) != 1 or any(value not in ("0", "0.0", "1", "1.0") for value in values):
            raise LbgnasError(f"{table}: {image} has {' '.join(values)}; one 1 and six 0 are needed")
        found.append((image, ones[0]))
    return found


def _sexes(path: Path) -> dict[str, int]:
    """Return 0 or 1 for each image whose sex is known."""
    table = first_there(f"{NAME}: metadata.csv", path / "metadata.csv", path / "HAM10000_metadata.csv")
    header = read_header(table)
    key = "isic_id" if "isic_id" in header else "image_id"
    columns = read_columns(table, [key, "sex"], may_be_empty=["sex"])
    code = {sex: index for index, sex in enumerate(_SEXES)}
    return {
        image: code[sex.lower()] for image, sex in zip(columns[key], columns["sex"], strict=True) if sex.lower() in code
    }


def _suffix(folder: Path, image: str) -> str:
    # Copies differ in this, and some disks tell the two apart.
    return next((suffix for suffix in (".jpg", ".JPG", ".jpeg") if (folder / (image + suffix)).is_file()), ".jpg")
