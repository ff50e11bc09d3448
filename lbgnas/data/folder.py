"""A user's own images in class folders."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

from lbgnas.data.image_data import FolderImages
from lbgnas.data.seeds import generator
from lbgnas.data.split import stratified_halves
from lbgnas.errors import LbgnasError

NAME = "folder"
POOL_PORTION = 0.8

_SIZE = 32


def load(path: Path, part: Literal["pool", "test"], size: int | None = None) -> FolderImages:
    """Return the images in `path/train/<class>` (pool) or `path/test/<class>`.

    Without these two folders the classes are `path/<class>`, and 20 % of every class are the test split, the
    same in every run.

    Args:
        path: the folder.
        part: which of the two.
        size: side in pixels; None for 32.

    Raises:
        LbgnasError: only one of train and test is there, their classes differ, there are fewer than two,
            or one has no image.
    """
    train, test = path / "train", path / "test"
    if os.path.isdir(train) != os.path.isdir(test):
        there, missing = (train, test) if os.path.isdir(train) else (test, train)
        raise LbgnasError(f"{missing}: this folder is missing beside {there}; give both, or class folders in {path}")
    if not os.path.isdir(train):
        return _divided(FolderImages(path, size or _SIZE, NAME), part)
    pool, held_out = FolderImages(train, size or _SIZE, NAME), FolderImages(test, size or _SIZE, NAME)
    differing = sorted(set(pool.info.class_names) ^ set(held_out.info.class_names))
    if differing:
        raise LbgnasError(f"{path}: the class {differing[0]!r} is in only one of train and test")
    return pool if part == "pool" else held_out


def _divided(data: FolderImages, part: Literal["pool", "test"]) -> FolderImages:
    pool, test = stratified_halves(data.labels, POOL_PORTION, generator(0, NAME, "test split"))
    chosen = data.select(pool if part == "pool" else test)
    chosen.info = replace(
        data.info, note="no test folder was given: every run keeps the same 20 % of the images as test"
    )
    return chosen
