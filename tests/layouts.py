"""Tiny copies of the data sets as they lie on a disk."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np


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
