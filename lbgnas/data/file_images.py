"""Labelled image files, decoded when asked for: a batch at a time, whatever the size of the data set."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from lbgnas.data.checks import checked_ids, whole_numbers
from lbgnas.data.image_data import DataInfo, Sample, checked_attribute, sample_of
from lbgnas.data.image_files import class_files, read_square, unreadable
from lbgnas.errors import LbgnasError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WORKERS = 4


class FileImages:
    """Image files below one folder.

    An image's shorter side is scaled to `info.size`, and the middle is cropped to a square; every image becomes
    RGB. Threads decode the images of a batch, each holding one of full size at a time.

    Args:
        root: the folder.
        names: paths below it, N.
        labels: (N,), whole numbers from 0 to `info.num_classes - 1`.
        info: what the data set is.
        attribute: (N,), whole numbers from 0, -1 where it is not known, or None.
        for_validation: (N,), bool, or None.
        skip_bad: try every file first and leave out those that cannot be decoded; they are named in
            `info.skipped`.

    Raises:
        LbgnasError: labels or attributes that do not fit; later, a file that cannot be decoded.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        labels: torch.Tensor,
        info: DataInfo,
        attribute: torch.Tensor | None = None,
        for_validation: torch.Tensor | None = None,
        skip_bad: bool = False,
    ) -> None:
        self.info = info
        self.labels = whole_numbers(labels, len(names), info.num_classes, f"{info.name}: label")
        self.attribute = None if attribute is None else checked_attribute(attribute, len(names), info)
        self.for_validation = for_validation
        self._root = root
        self.names = list(names)
        if skip_bad:
            self._leave_out(set(unreadable(root, names, WORKERS)))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        return sample_of(self, index)

    def images(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the images of `ids`, (B, 3, H, W), float32 in [0, 1]."""
        names = [self.names[i] for i in checked_ids(ids, len(self)).tolist()]
        pixels = torch.empty(len(names), 3, self.info.size, self.info.size)
        decode = partial(read_square, self._root, self.info.size)
        with ThreadPoolExecutor(WORKERS) as pool:
            for row, image in enumerate(pool.map(decode, names)):
                pixels[row] = image
        return pixels.div_(255)

    def select(self, ids: torch.Tensor) -> FileImages:
        """Return the data set of these samples only, numbered anew from 0; it keeps all class names."""
        ids = checked_ids(ids, len(self))
        chosen = copy.copy(self)
        chosen.labels = self.labels[ids]
        chosen.attribute = None if self.attribute is None else self.attribute[ids]
        chosen.for_validation = None if self.for_validation is None else self.for_validation[ids]
        chosen.names = [self.names[i] for i in ids.tolist()]
        return chosen

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) over name, size, labels, attribute, and each file's name and length."""
        digest = hashlib.sha256(f"{self.info.name} {self.info.size}".encode())
        for name in self.names:
            path = self._root / name
            try:
                digest.update(f"\0{name}\0{path.stat().st_size}".encode("utf-8", "surrogateescape"))
            except OSError as error:
                raise LbgnasError(f"{path}: cannot be read ({error.strerror})") from None
        for part in (self.labels, self.attribute, self.for_validation):
            digest.update(b"none" if part is None else part.numpy().tobytes())
        return digest.hexdigest()

    def _leave_out(self, bad: set[str]) -> None:
        keep = torch.tensor([name not in bad for name in self.names], dtype=torch.bool).nonzero().squeeze(1)
        if not len(keep):
            raise LbgnasError(f"{self._root}: none of {len(self.names)} images can be read")
        self.__dict__ = self.select(keep).__dict__
        self.info = replace(self.info, skipped=tuple(sorted(bad)))


def class_folders(root: Path, info: DataInfo, skip_bad: bool = False) -> FileImages:
    """Return the images in `root/<class>/`; classes and files are numbered by their sorted names.

    Hidden files and folders are passed over. Name, size and all but the classes are those of `info`.

    Raises:
        LbgnasError: no such folder, fewer than two classes, or a class without an image.
    """
    files = class_files(root)
    labels = torch.tensor([k for k, name in enumerate(files) for _ in files[name]])
    names = [f"{name}/{file}" for name in files for file in files[name]]
    info = replace(info, num_classes=len(files), class_names=tuple(files))
    return FileImages(root, names, labels, info, skip_bad=skip_bad)


def photographs(name: str, classes: Sequence[str], size: int) -> DataInfo:
    """Return what holds for colour photographs: ImageNet's mean and std, crops shifted by an eighth, mirrored."""
    return DataInfo(
        name, len(classes), tuple(classes), 3, size, IMAGENET_MEAN, IMAGENET_STD, crop_padding=size // 8, flip=True
    )


def first_there(what: str, *places: Path) -> Path:
    """Return the first file or folder that exists.

    Raises:
        LbgnasError: none does.
    """
    for place in places:
        if place.exists():
            return place
    raise LbgnasError(f"{what} was not found: {' nor '.join(map(str, places))} is there")
