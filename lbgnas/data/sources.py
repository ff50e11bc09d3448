"""The data sets `--data NAME[:PATH]` can name.

Nothing here imports torch until a data set is opened: the configuration is checked with `check_spec` alone.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from lbgnas.config import DataOptions
from lbgnas.errors import LbgnasError, unknown

if TYPE_CHECKING:
    from lbgnas.data.image_data import ImageData

Part = Literal["pool", "test"]

_WHERE = "--data"
_SIZES = range(4, 4097)
_NO_OPTIONS = DataOptions()


class _Source(NamedTuple):
    """A function of a module here, called as function([path,] part, size, **options)."""

    path: Literal["none", "optional", "required"]
    module: str
    function: str
    options: tuple[str, ...] = ()


_BIAS = ("rho", "balanced")
_SOURCES = {
    "coloured-digits": _Source("none", "coloured_digits", "load"),
    "fashion-mnist": _Source("optional", "fashion_mnist", "load"),
    "coloured-fashion-mnist": _Source("optional", "biased", "coloured_fashion", _BIAS),
    "marked-fashion-mnist": _Source("optional", "biased", "marked_fashion", _BIAS),
    "cifar10": _Source("required", "cifar", "cifar10"),
    "cifar100": _Source("required", "cifar", "cifar100"),
    "coloured-cifar10": _Source("required", "biased", "coloured_cifar10", _BIAS),
    "celeba": _Source("required", "celeba", "load", ("target", "sensitive", "split_scheme", "skip_bad_images")),
    "isic18": _Source("required", "isic", "load", ("split_scheme", "skip_bad_images")),
    "imagenet": _Source("required", "imagenet", "load", ("skip_bad_images",)),
    "folder": _Source("required", "folder", "load", ("attributes", "sensitive", "skip_bad_images")),
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


def open_pool(
    spec: str, *, image_size: int | None = None, limit: int | None = None, options: DataOptions = _NO_OPTIONS
) -> ImageData:
    """Return all images that search and training may see.

    Args:
        spec: `NAME[:PATH]`, see `DATA_NAMES`.
        image_size: side in pixels, 4 to 4096; None keeps the data set's own (docs/data.md).
        limit: take only so many, for quick trials; always the same ones, with the make-up of the whole.
        options: what this data set can be told.

    Raises:
        LbgnasError: a bad spec, image size or limit; an option of other data sets; data missing or broken.

    Example:
        >>> data = open_pool("coloured-digits", limit=100)
        >>> len(data), data.info.size
        (100, 8)
    """
    return _open(spec, "pool", image_size, limit, options)


def open_test(
    spec: str, *, image_size: int | None = None, limit: int | None = None, options: DataOptions = _NO_OPTIONS
) -> ImageData:
    """Return the test split; called by evaluation only. Arguments and errors are those of `open_pool`."""
    return _open(spec, "test", image_size, limit, options)


def _open(spec: str, part: Part, image_size: int | None, limit: int | None, options: DataOptions) -> ImageData:
    name, path = check_spec(spec)
    if image_size is not None and image_size not in _SIZES:
        raise LbgnasError(f"image_size: {image_size} is not allowed; it must be {_SIZES[0]} to {_SIZES[-1]} pixels")
    if limit is not None and limit < 1:
        raise LbgnasError(f"limit: {limit} is below 1")
    source, told = _SOURCES[name], options.model_dump(exclude_defaults=True)
    for option in told:
        if option not in source.options:
            takers = ", ".join(other for other, some in _SOURCES.items() if option in some.options)
            raise LbgnasError(f"--{option.replace('_', '-')}: {name} takes no such option; {takers} do")
    load = getattr(import_module(f"lbgnas.data.{source.module}"), source.function)
    place = () if source.path == "none" else (path,)
    data: ImageData = load(*place, part, image_size, **told)
    return data if limit is None or limit >= len(data) else _first(data, limit)


def _first(data: ImageData, limit: int) -> ImageData:
    from lbgnas.data.seeds import generator
    from lbgnas.data.split import stratified_order

    strata = data.labels
    # Keeps what the data set says of its make-up (such as P(colour = label)) true of the trial.
    for part in (data.attribute, data.for_validation):
        if part is not None:
            strata = strata * (int(part.max()) + 2) + part.long() + 1
    order = stratified_order(strata, generator(0, "limit"))
    return data.select(order[:limit].sort().values)
