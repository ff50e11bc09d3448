"""ImageNet (ILSVRC 2012) from its class folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from lbgnas.data.file_images import FileImages, class_folders, photographs
from lbgnas.data.image_files import class_files
from lbgnas.errors import LbgnasError

NAME = "imagenet"
SEARCH_SHARES = (0.1, 0.025)

_SIZE = 224


def load(
    path: Path, part: Literal["pool", "test"], size: int | None = None, skip_bad_images: bool = False
) -> FileImages:
    """Return the images in `path/train/<wnid>` (pool) or `path/val/<wnid>` (test).

    A search takes a tenth of the pool for its training half and a fortieth for its validation half, as in the
    LBG paper; an evaluation trains on all of it.

    Args:
        path: the folder.
        part: which of the two.
        size: side in pixels; None for 224.
        skip_bad_images: leave out files that cannot be decoded.

    Raises:
        LbgnasError: a folder or a class that is missing.
    """
    folder = path / ("train" if part == "pool" else "val")
    data = class_folders(folder, photographs(NAME, (), size or _SIZE), skip_bad_images)
    if part == "test":
        trained = set(class_files(path / "train"))
        stray = sorted(trained.symmetric_difference(data.info.class_names))
        if stray:
            raise LbgnasError(f"{path}: the class {stray[0]!r} is in only one of train and val")
    data.info = replace(data.info, search_shares=SEARCH_SHARES)
    return data
