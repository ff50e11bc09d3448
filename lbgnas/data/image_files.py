"""Image files: which there are, which can be read, and their pixels."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lbgnas.errors import LbgnasError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# What PIL's decoders are known to raise for files that are not what they claim to be.
_DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)


def class_files(root: Path) -> dict[str, list[str]]:
    """Return the sorted image files of every class folder in `root`.

    Raises:
        LbgnasError: no such folder, fewer than two classes, or a class without an image.
    """
    if not os.path.isdir(root):
        raise LbgnasError(f"{root}: there is no such folder; it must hold one folder of images for each class")
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        folders = {name: sorted(os.listdir(root / name)) for name in names if not name.startswith(".")}
    except OSError as error:
        raise LbgnasError(f"{error.filename}: cannot be read ({error.strerror})") from None
    found = {
        name: [file for file in files if file.lower().endswith(_SUFFIXES) and not file.startswith(".")]
        for name, files in folders.items()
    }
    if len(found) < 2:
        raise LbgnasError(f"{root}: {len(found)} class folders were found, at least 2 are needed")
    for name, files in found.items():
        if not files:
            raise LbgnasError(f"{root / name}: this class has no image ({', '.join(_SUFFIXES)})")
    return found


def image_names(root: Path) -> list[str]:
    """Return the sorted image files in a folder and below it; hidden ones are passed over.

    Raises:
        LbgnasError: no such folder.
    """
    if not os.path.isdir(root):
        raise LbgnasError(f"{root}: there is no such folder")
    found = []
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        below = Path(folder).relative_to(root)
        found += [str(below / name) for name in files if name.lower().endswith(_SUFFIXES) and not name.startswith(".")]
    return sorted(found)


def read_square(root: Path, size: int, name: str) -> torch.Tensor:
    """Return the middle of the image `root/name` as RGB bytes, (3, size, size), its shorter side scaled.

    Raises:
        LbgnasError: the file cannot be decoded.
    """
    path = root / name
    try:
        with Image.open(path) as image:
            # A JPEG much larger than needed is decoded at a half, a quarter or an eighth of its size.
            image.draft("RGB", (2 * size, 2 * size))
            square = _middle_square(image.convert("RGB"), size)
    except _DECODE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LbgnasError(
            f"{path}: this image cannot be read ({reason}); --skip-bad-images leaves such files out"
        ) from None
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def unreadable(root: Path, names: Sequence[str], workers: int) -> list[str]:
    """Return the files that cannot be decoded, after trying each."""

    def works(name: str) -> bool:
        try:
            with Image.open(root / name) as image:
                image.draft("RGB", (1, 1))
                image.load()
        except _DECODE_ERRORS:
            return False
        return True

    with ThreadPoolExecutor(workers) as pool:
        return [name for name, fine in zip(names, pool.map(works, names), strict=True) if not fine]


def _middle_square(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    scale = size / min(width, height)
    width, height = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
