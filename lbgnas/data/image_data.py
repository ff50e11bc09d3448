"""Labelled images that know their sample ids: held in memory or read from class folders."""

from __future__ import annotations

import copy
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from lbgnas.data.checks import check_pixels, checked_ids, whole_numbers
from lbgnas.data.image_files import class_files, read_square
from lbgnas.errors import LbgnasError

Sample = tuple[torch.Tensor, int, int] | tuple[torch.Tensor, int, int, int]


@dataclass(frozen=True)
class DataInfo:
    """What a network builder and the transforms need to know of a data set.

    Attributes:
        name: the name in the registry.
        num_classes: labels are 0 to `num_classes - 1`.
        class_names: one name a class.
        channels: 1 or 3 as a rule.
        size: side of the square images, in pixels.
        mean, std: per channel, of pixels in [0, 1].
        crop_padding: pixels of zero padding before the random crop; 0 for none.
        flip: whether a mirrored image keeps its label.
        attribute_name: what the sensitive attribute is, or None when there is none.
        attribute_values: names of its values 0, 1, ...; empty where they have none.
        note: what a reader of results must be told, such as that an attribute is synthetic.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int = 0
    flip: bool = False
    attribute_name: str | None = None
    attribute_values: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if len(self.class_names) != self.num_classes:
            raise LbgnasError(f"{self.name}: {len(self.class_names)} class names for {self.num_classes} classes")
        if not len(self.mean) == len(self.std) == self.channels:
            raise LbgnasError(f"{self.name}: mean and std must have one number for each of {self.channels} channels")
        if min(self.std) <= 0:
            raise LbgnasError(f"{self.name}: std {self.std} must be above 0 in every channel")


class ImageData(Protocol):
    """What the engine asks of a data set; sample ids are 0 to `len(data) - 1`.

    `attribute` is for metrics only: it never reaches a batch. `for_validation` says which samples a search must
    keep in its validation half; None where any may be in either.
    """

    info: DataInfo
    labels: torch.Tensor
    attribute: torch.Tensor | None
    for_validation: torch.Tensor | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Return (image, label, sample id) or (image, label, sample id, attribute)."""
        ...

    def images(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the images of `ids`, (B, C, H, W), float32 in [0, 1] on the CPU."""
        ...

    def select(self, ids: torch.Tensor) -> ImageData:
        """Return the data set of these samples only, numbered anew from 0."""
        ...

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of what the data set holds."""
        ...


class TensorImages:
    """Images held in memory.

    Args:
        images: (N, C, H, H); uint8, or floating point, finite and in [0, 1].
        labels: (N,), whole numbers from 0 to `info.num_classes - 1`.
        info: must agree with the images' channels and size.
        attribute: (N,), whole numbers from 0, or None.
        for_validation: (N,), bool, or None.

    Raises:
        LbgnasError: a shape, type or value that is not as above, with the first bad sample id.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        info: DataInfo,
        attribute: torch.Tensor | None = None,
        for_validation: torch.Tensor | None = None,
    ) -> None:
        check_pixels(images, info.channels, info.size, info.name)
        self.info = info
        self.pixels = images.detach().cpu().contiguous()
        self.labels = whole_numbers(labels, len(images), info.num_classes, f"{info.name}: label")
        self.attribute = None
        if attribute is not None:
            self.attribute = whole_numbers(attribute, len(images), None, f"{info.name}: attribute")
        self.for_validation = for_validation

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        return _sample(self, index)

    def images(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the images of `ids`, (B, C, H, W), float32 in [0, 1]."""
        chosen = self.pixels[checked_ids(ids, len(self))]
        return chosen.float().div_(255) if chosen.dtype == torch.uint8 else chosen.float()

    def select(self, ids: torch.Tensor) -> TensorImages:
        """Return the data set of these samples only, numbered anew from 0."""
        ids = checked_ids(ids, len(self))
        attribute, held = (None if part is None else part[ids] for part in (self.attribute, self.for_validation))
        return TensorImages(self.pixels[ids], self.labels[ids], self.info, attribute, held)

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) over the name, and the shape and bytes of images, labels and attribute."""
        digest = hashlib.sha256(self.info.name.encode())
        for tensor in (self.pixels, self.labels, self.attribute):
            digest.update(b"none" if tensor is None else f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            if tensor is not None:
                digest.update(tensor.view(torch.uint8).flatten().numpy().data)
        if self.for_validation is not None:
            digest.update(b"for validation" + self.for_validation.numpy().tobytes())
        return digest.hexdigest()


class FolderImages:
    """Images in `root/<class>/*.{png,jpg,jpeg,bmp,webp}`, decoded when asked for.

    Classes and files are numbered by their sorted names. An image's shorter side is scaled to `size`, and the
    middle is cropped to a square; every image becomes RGB.

    Args:
        root: the folder of class folders; hidden folders are passed over.
        size: side in pixels.
        name: the data set's name.
        workers: threads that decode.

    Raises:
        LbgnasError: no such folder, fewer than two classes, or a class without an image; later, a file that
            cannot be decoded.
    """

    attribute: torch.Tensor | None = None
    for_validation: torch.Tensor | None = None

    def __init__(self, root: Path, size: int, name: str = "folder", workers: int = 4) -> None:
        files = class_files(root)
        classes = tuple(files)
        half = (0.5, 0.5, 0.5)
        self.info = DataInfo(name, len(classes), classes, 3, size, half, half, crop_padding=size // 8, flip=True)
        self.labels = torch.tensor([k for k, name in enumerate(classes) for _ in files[name]])
        self._root = root
        self._names = [f"{name}/{file}" for name in classes for file in files[name]]
        self._workers = workers

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        return _sample(self, index)

    def images(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the images of `ids`, (B, 3, H, W), float32 in [0, 1]."""
        names = [self._names[i] for i in checked_ids(ids, len(self)).tolist()]
        pixels = torch.empty(len(names), 3, self.info.size, self.info.size)
        decode = partial(read_square, self._root, self.info.size)
        with ThreadPoolExecutor(self._workers) as pool:
            for row, image in enumerate(pool.map(decode, names)):
                pixels[row] = image
        return pixels.div_(255)

    def select(self, ids: torch.Tensor) -> FolderImages:
        """Return the data set of these samples only, numbered anew from 0; it keeps all class names."""
        ids = checked_ids(ids, len(self))
        chosen = copy.copy(self)
        chosen.labels = self.labels[ids]
        chosen._names = [self._names[i] for i in ids.tolist()]
        return chosen

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) over the name, the image size, and each file's name and length."""
        digest = hashlib.sha256(f"{self.info.name} {self.info.size}".encode())
        for name in self._names:
            path = self._root / name
            try:
                digest.update(f"\0{name}\0{path.stat().st_size}".encode("utf-8", "surrogateescape"))
            except OSError as error:
                raise LbgnasError(f"{path}: cannot be read ({error.strerror})") from None
        return digest.hexdigest()


def _sample(data: ImageData, index: int) -> Sample:
    # IndexError, not LbgnasError: it is what ends a `for` loop over a sequence.
    sample_id = range(len(data))[index]
    image, label = data.images(torch.tensor([sample_id]))[0], int(data.labels[sample_id])
    if data.attribute is None:
        return image, label, sample_id
    return image, label, sample_id, int(data.attribute[sample_id])
