"""Pickles read as data: numbers, text, lists, dicts and NumPy arrays; nothing they name is ever called."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lbgnas.errors import LbgnasError

_TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
# What the unpickler is known to raise for bytes that are no pickle, or for one that is cut short.
_BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
)


def read_plain_pickle(path: Path) -> object:
    """Return what a pickle file holds; text that Python 2 wrote comes as bytes.

    Raises:
        LbgnasError: the file cannot be read, is broken or cut short, or names anything but a NumPy array.
    """
    try:
        with path.open("rb") as file:
            return _finished(_PlainUnpickler(file, str(path)).load())
    except LbgnasError:
        raise
    except OSError as error:
        raise LbgnasError(f"{path}: cannot be read ({error.strerror})") from None
    except _BROKEN as error:
        raise LbgnasError(f"{path}: this file is broken or cut short ({type(error).__name__}: {error})") from None


class _Type:
    """Stands in for numpy.dtype: only a plain number type, by name."""

    def __init__(self, name: str | bytes, *_: object) -> None:
        self.name = name.decode("latin1") if isinstance(name, bytes) else name
        if self.name not in _TYPES:
            raise ValueError(f"arrays of {self.name!r} are not allowed")

    def __setstate__(self, state: tuple[object, ...]) -> None:
        if state[1] in (">", b">"):
            self.name = ">" + self.name


class _Array:
    """Stands in for the empty numpy array that a pickle makes first and fills in afterwards."""

    value: npt.NDArray[np.generic]

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[object, tuple[int, ...], _Type, bool, bytes]) -> None:
        _, shape, kind, columns_first, raw = state
        self.value = _array(raw, kind, shape, "F" if columns_first else "C").value


def _array(raw: bytes, kind: _Type, shape: tuple[int, ...], order: str) -> _Array:
    """Stands in for numpy's _frombuffer, which newer pickles name."""
    if not isinstance(raw, bytes | bytearray | memoryview) or order not in ("C", "F"):
        raise ValueError("an array without its bytes")
    made = _Array()
    flat = np.frombuffer(raw, np.dtype(kind.name))
    made.value = flat.reshape(shape, order="C" if order == "C" else "F").copy()
    return made


def _encoded(text: str, encoding: str) -> bytes:
    """Stands in for _codecs.encode, by which Python 3 writes bytes in an old protocol."""
    if encoding != "latin1":
        raise ValueError(f"the encoding {encoding!r} is not allowed")
    return text.encode("latin1")


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: object, path: str) -> None:
        super().__init__(file, encoding="bytes")  # type: ignore[arg-type]
        self._path = path

    def find_class(self, module: str, name: str) -> object:
        package = module.replace("numpy._core", "numpy.core")
        match package, name:
            case "numpy.core.multiarray", "_reconstruct":
                return _Array
            case "numpy", "ndarray":
                return _Array
            case "numpy", "dtype":
                return _Type
            case "numpy.core.numeric", "_frombuffer":
                return _array
            case "_codecs", "encode":
                return _encoded
        raise LbgnasError(
            f"{self._path}: this file asks for {module}.{name}; only numbers, text, lists, dicts and arrays are allowed"
        )


def _finished(content: object) -> object:
    """Return the content with arrays in place of their stand-ins, at the top and one level below."""
    if isinstance(content, dict):
        return {key: _finished_array(value) for key, value in content.items()}
    return _finished_array(content)


def _finished_array(content: object) -> object:
    return content.value if isinstance(content, _Array) else content
