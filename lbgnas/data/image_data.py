"""Labelled images that know their sample ids, and what is to be known of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch

from lbgnas.data.checks import check_pixels, checked_ids, whole_numbers
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
        search_shares: shares of the pool for the training and the validation half of a search, where a half each
            is too much.
        skipped: files that could not be read and were left out.
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
    search_shares: tuple[float, float] = (0.5, 0.5)
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.class_names) != self.num_classes:
            raise LbgnasError(f"{self.name}: {len(self.class_names)} class names for {self.num_classes} classes")
        if not len(self.mean) == len(self.std) == self.channels:
            raise LbgnasError(f"{self.name}: mean and std must have one number for each of {self.channels} channels")
        if min(self.std) <= 0:
            raise LbgnasError(f"{self.name}: std {self.std} must be above 0 in every channel")


class ImageData(Protocol):
    """What the engine asks of a data set; sample ids are 0 to `len(data) - 1`.

    `attribute` is for metrics only: it never reaches a batch; -1 where it is not known. `for_validation` says which
    samples a search must keep in its validation half; None where any may be in either.
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
        attribute: (N,), whole numbers from 0, -1 where it is not known, or None.
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
            self.attribute = checked_attribute(attribute, len(images), info)
        self.for_validation = for_validation

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        return sample_of(self, index)

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


def sample_of(data: ImageData, index: int) -> Sample:
    """Return one sample as `__getitem__` does."""
    # IndexError, not LbgnasError: it is what ends a `for` loop over a sequence.
    sample_id = range(len(data))[index]
    image, label = data.images(torch.tensor([sample_id]))[0], int(data.labels[sample_id])
    if data.attribute is None:
        return image, label, sample_id
    return image, label, sample_id, int(data.attribute[sample_id])


def checked_attribute(attribute: torch.Tensor, count: int, info: DataInfo) -> torch.Tensor:
    """Return the attribute as long on the CPU; LbgnasError unless it is `count` whole numbers from -1."""
    return whole_numbers(attribute, count, None, f"{info.name}: attribute", least=-1)
