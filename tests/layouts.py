"""Tiny copies of the data sets as they lie on a disk."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def fashion_mnist(folder: Path, pool: int, test: int) -> Path:
    """Write Fashion-MNIST with labels 0 to 9 in turn; every image is one grey, 100 or more."""
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", pool), ("t10k", test)):
        grey = 100 + np.arange(count) % 50
        images = np.broadcast_to(grey[:, None, None], (count, 28, 28)).astype(np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(array), mtime=0))
    return folder


def cifar10(folder: Path, each: int) -> Path:
    """Write CIFAR-10, `each` images a file, with labels 0 to 9 in turn and random pixels."""
    home = folder / "cifar-10-batches-py"
    home.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        content = {
            "data": draw.integers(0, 256, (each, 3072), np.uint8),
            "labels": [n % 10 for n in range(each)],
        }
        (home / name).write_bytes(pickle.dumps(content, protocol=2))
    return folder


def image(path: Path, seed: int = 0, size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)


CELEBA_NAMES = ["5_o_Clock_Shadow", "Attractive", "Blond_Hair", "Male", "Young"]


def celeba(folder: Path, count: int, images: int | None = None) -> list[list[int]]:
    """Write CelebA as distributed, with 5 of its attributes; return them. The first 60 % train, then 20 %, 20 %."""
    rows = [[int(n & 1 << k > 0) * 2 - 1 for k in range(5)] for n in range(count)]
    names = [f"{n + 1:06d}.jpg" for n in range(count)]
    (folder / "img_align_celeba").mkdir(parents=True)
    for n, name in enumerate(names[:images]):
        image(folder / "img_align_celeba" / name, n)
    # The real header ends in a blank.
    lines = [str(count), " ".join(CELEBA_NAMES) + " "]
    lines += [f"{name} " + " ".join(f"{value:2d}" for value in row) for name, row in zip(names, rows, strict=True)]
    (folder / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    parts = [0 if n < 0.6 * count else 1 if n < 0.8 * count else 2 for n in range(count)]
    text = "".join(f"{name} {part}\n" for name, part in zip(names, parts, strict=True))
    (folder / "list_eval_partition.txt").write_text(text)
    return rows


ISIC_CLASSES = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]


def isic18(folder: Path, counts: dict[str, int], sexes: list[str]) -> None:
    """Write ISIC 2018, task 3: classes and sexes in turn; the last image of each part is not in the metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata, number = ["isic_id,age_approx,sex"], 0
    for part, count in counts.items():
        lines = [",".join(["image", *ISIC_CLASSES])]
        for n in range(count):
            name = f"ISIC_{number:07d}"
            image(folder / f"ISIC2018_Task3_{part}_Input" / f"{name}.jpg", number)
            lines.append(",".join([name, *("1.0" if k == n % 7 else "0.0" for k in range(7))]))
            if n < count - 1:
                metadata.append(f"{name},40,{sexes[n % len(sexes)]}")
            number += 1
        (folder / f"ISIC2018_Task3_{part}_GroundTruth.csv").write_text("\n".join(lines) + "\n")
    (folder / "metadata.csv").write_text("\n".join(metadata) + "\n")


def imagenet(folder: Path, train: int, val: int, classes: int = 2) -> None:
    """Write ImageNet's class folders."""
    for part, count in (("train", train), ("val", val)):
        for k in range(classes):
            for n in range(count):
                image(folder / part / f"n{k:08d}" / f"n{k:08d}_{n}.JPEG", n)
