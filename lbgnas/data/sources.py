"""The data sets `--data NAME[:PATH]` can name.

Nothing here imports torch until a data set is opened: the configuration is checked with `check_spec` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from lbgnas.errors import LbgnasError, unknown

if TYPE_CHECKING:
    from lbgnas.data.image_data import ImageData

Part = Literal["pool", "test"]

_WHERE = "--data"
_SIZES = range(4, 4097)


def _coloured_digits(path: Path | None, part: Part, size: int | None) -> ImageData:
    from lbgnas.data import coloured_digits

    return coloured_digits.load(part, size)


def _fashion_mnist(path: Path | None, part: Part, size: int | None) -> ImageData:
    from lbgnas.data import fashion_mnist

    return fashion_mnist.load(path, part, size)


def _cifar10(path: Path | None, part: Part, size: int | None) -> ImageData:
    from lbgnas.data import cifar

    return cifar.load(cifar.CIFAR10, _given(path), part, size)


def _cifar100(path: Path | None, part: Part, size: int | None) -> ImageData:
    from lbgnas.data import cifar

    return cifar.load(cifar.CIFAR100, _given(path), part, size)


def _folder(path: Path | None, part: Part, size: int | None) -> ImageData:
    from lbgnas.data import folder

    return folder.load(_given(path), part, size)


class _Source(NamedTuple):
    path: Literal["none", "optional", "required"]
    load: Callable[[Path | None, Part, int | None], ImageData]


_SOURCES = {
    "coloured-digits": _Source("none", _coloured_digits),
    "fashion-mnist": _Source("optional", _fashion_mnist),
    "cifar10": _Source("required", _cifar10),
    "cifar100": _Source("required", _cifar100),
    "folder": _Source("required", _folder),
}

DATA_NAMES = tuple(_SOURCES)


def check_spec(spec: str) -> tuple[str, Path | None]:
    """Return the name and the path of `NAME[:PATH]`, without looking at the disk.

    Raises:
        LbgnasError: an unknown name, a path that is missing, or one where none belongs.

    Example:
        >>> check_spec("cifar10:/data")
        ('cifar10', PosixPath('/data'))
    """
    name, colon, path = spec.partition(":")
    if name not in _SOURCES:
        raise unknown("data set", name, DATA_NAMES, _WHERE)
    rule = _SOURCES[name].path
    if colon and rule == "none":
        raise LbgnasError(f"{_WHERE}: {spec!r} is not allowed, {name} takes no path; give {name!r}")
    if (colon or rule == "required") and not path.strip():
        raise LbgnasError(f"{_WHERE}: {spec!r} lacks its folder; give {name}:PATH")
    if not path:
        return name, None
    try:
        return name, Path(path).expanduser()
    except RuntimeError:
        raise LbgnasError(f"{_WHERE}: the home folder in {spec!r} is not known; give the whole path") from None


def open_pool(spec: str, *, image_size: int | None = None, limit: int | None = None) -> ImageData:
    """Return all images that search and training may see.

    Args:
        spec: `NAME[:PATH]`, see `DATA_NAMES`.
        image_size: side in pixels, 4 to 4096; None keeps the data set's own (32 for a folder).
        limit: take only so many, for quick trials; always the same ones, with the make-up of the whole.

    Raises:
        LbgnasError: a bad spec, image size or limit; data that are missing or broken.

    Example:
        >>> data = open_pool("coloured-digits", limit=100)
        >>> len(data), data.info.size
        (100, 16)
    """
    return _open(spec, "pool", image_size, limit)


def open_test(spec: str, *, image_size: int | None = None, limit: int | None = None) -> ImageData:
    """Return the test split; called by evaluation only. Arguments and errors are those of `open_pool`."""
    return _open(spec, "test", image_size, limit)


def _open(spec: str, part: Part, image_size: int | None, limit: int | None) -> ImageData:
    name, path = check_spec(spec)
    if image_size is not None and image_size not in _SIZES:
        raise LbgnasError(f"image_size: {image_size} is not allowed; it must be {_SIZES[0]} to {_SIZES[-1]} pixels")
    if limit is not None and limit < 1:
        raise LbgnasError(f"limit: {limit} is below 1")
    data = _SOURCES[name].load(path, part, image_size)
    return data if limit is None or limit >= len(data) else _first(data, limit)


def _first(data: ImageData, limit: int) -> ImageData:
    from lbgnas.data.seeds import generator
    from lbgnas.data.split import stratified_order

    strata = data.labels
    if data.attribute is not None:
        # Keeps what the data set says of its make-up (such as P(colour = label)) true of the trial.
        strata = strata * (int(data.attribute.max()) + 1) + data.attribute
    order = stratified_order(strata, generator(0, "limit"))
    return data.select(order[:limit].sort().values)


def _given(path: Path | None) -> Path:
    assert path is not None, "check_spec lets no such spec pass without a path"
    return path
