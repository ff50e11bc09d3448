"""A user's own images in class folders, with sensitive attributes from a CSV file if there is one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from lbgnas.csv_files import read_columns, read_header
from lbgnas.data.file_images import FileImages, class_folders
from lbgnas.data.image_data import DataInfo
from lbgnas.data.seeds import generator
from lbgnas.data.split import stratified_halves
from lbgnas.errors import LbgnasError

NAME = "folder"
POOL_PORTION = 0.8

_SIZE = 32
_FILE = "file"

Part = Literal["pool", "test"]


def load(
    path: Path,
    part: Part,
    size: int | None = None,
    attributes: str | None = None,
    sensitive: str | None = None,
    skip_bad_images: bool = False,
) -> FileImages:
    """Return the images in `path/train/<class>` (pool) or `path/test/<class>`.

    Without these two folders the classes are `path/<class>`, and 20 % of every class are the test split, the
    same in every run.

    Args:
        path: the folder.
        part: which of the two.
        size: side in pixels; None for 32.
        attributes: CSV file with the column `file`, a path below `path`, and one column for each attribute.
        sensitive: which of them; by default the only one.
        skip_bad_images: leave out files that cannot be decoded.

    Raises:
        LbgnasError: only one of train and test is there, their classes differ, there are fewer than two,
            or one has no image; a CSV file that does not fit.
    """
    side, half = size or _SIZE, (0.5, 0.5, 0.5)
    info = DataInfo(NAME, 0, (), 3, side, half, half, crop_padding=side // 8, flip=True)
    train, test = path / "train", path / "test"
    if os.path.isdir(train) != os.path.isdir(test):
        there, missing = (train, test) if os.path.isdir(train) else (test, train)
        raise LbgnasError(f"{missing}: this folder is missing beside {there}; give both, or class folders in {path}")
    table = None if attributes is None else _Attributes(Path(attributes).expanduser(), sensitive, path)
    if table is None and sensitive is not None:
        raise LbgnasError(f"--sensitive {sensitive}: needs --attributes FILE, the CSV file it is a column of")
    if not os.path.isdir(train):
        data = class_folders(path, info, skip_bad_images)
        return _divided(data if table is None else table.added(data, ""), part)
    pool, held_out = class_folders(train, info, skip_bad_images), class_folders(test, info, skip_bad_images)
    differing = sorted(set(pool.info.class_names) ^ set(held_out.info.class_names))
    if differing:
        raise LbgnasError(f"{path}: the class {differing[0]!r} is in only one of train and test")
    data, name = (pool, "train") if part == "pool" else (held_out, "test")
    return data if table is None else table.added(data, f"{name}/")


def _divided(data: FileImages, part: Part) -> FileImages:
    pool, test = stratified_halves(data.labels, POOL_PORTION, generator(0, NAME, "test split"))
    chosen = data.select(pool if part == "pool" else test)
    chosen.info = replace(
        data.info, note="no test folder was given: every run keeps the same 20 % of the images as test"
    )
    return chosen


class _Attributes:
    """One attribute by file, from a CSV file."""

    def __init__(self, table: Path, sensitive: str | None, root: Path) -> None:
        header = read_header(table)
        others = [name for name in header if name != _FILE]
        if sensitive is None and len(others) != 1:
            raise LbgnasError(f"--sensitive: needed, for {table} has {len(others)} columns: {', '.join(others)}")
        self.name = sensitive or others[0]
        columns = read_columns(table, [_FILE, self.name], may_be_empty=[self.name])
        self.of = dict(zip(columns[_FILE], columns[self.name], strict=True))
        if len(self.of) < len(columns[_FILE]):
            twice = next(name for name in self.of if columns[_FILE].count(name) > 1)
            raise LbgnasError(f"{table}: the file {twice!r} has more than one row")
        stray = next((name for name in self.of if not (root / name).is_file()), None)
        if stray is not None:
            raise LbgnasError(f"{table}: the file {stray!r} is not in {root}")
        self.values = sorted({value for value in self.of.values() if value})

    def added(self, data: FileImages, above: str) -> FileImages:
        """Return the data with this attribute, -1 where a file has no row or no value."""
        code = {value: index for index, value in enumerate(self.values)}
        found = [code.get(self.of.get(above + name, ""), -1) for name in data.names]
        data.attribute = torch.tensor(found)
        data.info = replace(data.info, attribute_name=self.name, attribute_values=tuple(self.values))
        return data
