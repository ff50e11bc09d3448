"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from their "python version" files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from lbgnas.data.image_data import DataInfo, TensorImages
from lbgnas.data.plain_pickle import read_plain_pickle
from lbgnas.data.transforms import resized
from lbgnas.errors import LbgnasError

_SIZE = 32
_BYTES = 3 * _SIZE * _SIZE
_NAMES_10 = "airplane automobile bird cat deer dog frog horse ship truck"
_NAMES_100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""


@dataclass(frozen=True)
class Cifar:
    """Where one of the two data sets keeps what."""

    name: str
    folder: str
    pool_files: tuple[str, ...]
    test_file: str
    label_key: str
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CIFAR10 = Cifar(
    name="cifar10",
    folder="cifar-10-batches-py",
    pool_files=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test_file="test_batch",
    label_key="labels",
    class_names=tuple(_NAMES_10.split()),
    mean=(0.49139968, 0.48215827, 0.44653124),
    std=(0.24703233, 0.24348505, 0.26158768),
)

CIFAR100 = Cifar(
    name="cifar100",
    folder="cifar-100-python",
    pool_files=("train",),
    test_file="test",
    label_key="fine_labels",
    class_names=tuple(_NAMES_100.split()),
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
)


def load(kind: Cifar, path: Path, part: Literal["pool", "test"], size: int | None = None) -> TensorImages:
    """Return the training images (pool) or the test images.

    Args:
        kind: `CIFAR10` or `CIFAR100`.
        path: the folder that holds `kind.folder`, or that folder itself.
        part: which of the two.
        size: side in pixels; None for 32.

    Raises:
        LbgnasError: a file is missing, cut short, broken, or holds anything but plain data.
    """
    names = kind.pool_files if part == "pool" else (kind.test_file,)
    folder = _find(kind, path, names[0])
    pairs = [_read(folder / name, kind) for name in names]
    pixels = torch.from_numpy(np.concatenate([data for data, _ in pairs])).reshape(-1, 3, _SIZE, _SIZE)
    labels = torch.tensor([label for _, labels in pairs for label in labels])
    info = DataInfo(
        name=kind.name,
        num_classes=len(kind.class_names),
        class_names=kind.class_names,
        channels=3,
        size=size or _SIZE,
        mean=kind.mean,
        std=kind.std,
        crop_padding=4,
        flip=True,
    )
    return TensorImages(resized(pixels, info.size), labels, info)


cifar10 = partial(load, CIFAR10)
cifar100 = partial(load, CIFAR100)


def _find(kind: Cifar, path: Path, name: str) -> Path:
    for folder in (path / kind.folder, path):
        if os.path.isfile(folder / name):
            return folder
    raise LbgnasError(
        f"{kind.name}: {name} was found neither in {path / kind.folder} nor in {path}; "
        f"give {kind.name}:PATH with the folder that holds {kind.folder}"
    )


def _read(path: Path, kind: Cifar) -> tuple[npt.NDArray[np.uint8], list[int]]:
    content = read_plain_pickle(path)
    if isinstance(content, dict):
        # Python 2 wrote the original files: their keys are bytes.
        content = {key.decode("latin1") if isinstance(key, bytes) else key: content[key] for key in content}
        data, labels = content.get("data"), content.get(kind.label_key)
        if (
            isinstance(data, np.ndarray)
            and data.dtype == np.uint8
            and data.shape[1:] == (_BYTES,)
            and isinstance(labels, list)
            and len(data) == len(labels) > 0
            and all(type(label) is int and 0 <= label < len(kind.class_names) for label in labels)
        ):
            return data, labels
    raise LbgnasError(
        f"{path}: this is not a {kind.name} file; it must hold 'data', rows of {_BYTES} bytes, and "
        f"{kind.label_key!r}, as many numbers from 0 to {len(kind.class_names) - 1}"
    )
