"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017) from its idx files."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from lbgnas.data.image_data import DataInfo, TensorImages
from lbgnas.data.transforms import resized
from lbgnas.errors import LbgnasError

NAME = "fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

_SIZE = 28
_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
_PREFIX = {"pool": "train", "test": "t10k"}


def load(path: Path | None, part: Literal["pool", "test"], size: int | None = None) -> TensorImages:
    """Return the 60,000 training images (pool) or the 10,000 test images.

    Args:
        path: the folder of the idx files, plain or .gz, or one that holds them in `FashionMNIST/raw`;
            None for where Debian's package puts them.
        part: which of the two.
        size: side in pixels; None for 28.

    Raises:
        LbgnasError: a file is missing, cut short, or not an idx file of the right kind.
    """
    folders = [DEBIAN_FOLDER] if path is None else [path, path / "FashionMNIST" / "raw"]
    image_file = _find(f"{_PREFIX[part]}-images-idx3-ubyte", folders)
    label_file = _find(f"{_PREFIX[part]}-labels-idx1-ubyte", folders)
    images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
    if images.shape[1:] != (_SIZE, _SIZE) or not len(images):
        shape = "x".join(map(str, images.shape))
        raise LbgnasError(f"{image_file}: holds images of the shape {shape}, it must be Nx{_SIZE}x{_SIZE}")
    if len(images) != len(labels):
        raise LbgnasError(f"{label_file}: holds {len(labels)} labels for {len(images)} images in {image_file}")
    if labels.max() >= len(_CLASSES):
        raise LbgnasError(f"{label_file}: holds the label {labels.max()}, allowed are 0 to {len(_CLASSES) - 1}")
    info = DataInfo(
        name=NAME,
        num_classes=len(_CLASSES),
        class_names=_CLASSES,
        channels=1,
        size=size or _SIZE,
        mean=(0.2860,),
        std=(0.3530,),
        crop_padding=2,
        flip=True,
    )
    pixels = resized(torch.from_numpy(images).unsqueeze(1), info.size)
    return TensorImages(pixels, torch.from_numpy(labels), info)


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """Return the array of unsigned bytes in an idx file, plain or .gz.

    The file begins with the bytes 0, 0, 8 (unsigned bytes) and the number of dimensions; then come
    each dimension's length, a big-endian 32-bit number, and the data.

    Raises:
        LbgnasError: the file cannot be read, is of another kind, or has another length than its header says.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise LbgnasError(f"{path}: cannot be read, it may be cut short ({error})") from None
    start = 4 + 4 * dimensions
    if raw[:4] != bytes([0, 0, 8, dimensions]):
        wanted, given = f"{0x0800 + dimensions:08x}", raw[:4].hex() or "nothing"
        raise LbgnasError(f"{path}: this is not the idx file it must be, it begins with {given} instead of {wanted}")
    shape = [int.from_bytes(raw[at : at + 4], "big") for at in range(4, start, 4)]
    promised = start + math.prod(shape)
    if len(raw) != promised:
        raise LbgnasError(f"{path}: holds {len(raw)} bytes, its header promises {promised}; it may be cut short")
    array: npt.NDArray[np.uint8] = np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy()
    return array


def _find(name: str, folders: list[Path]) -> Path:
    for folder in folders:
        for file in (folder / f"{name}.gz", folder / name):
            if os.path.isfile(file):
                return file
    places = " and ".join(map(str, folders))
    raise LbgnasError(
        f"{NAME}: {name}[.gz] was not found in {places}; `apt install dataset-fashion-mnist` puts it in "
        f"{DEBIAN_FOLDER}, or give its folder as {NAME}:PATH"
    )
