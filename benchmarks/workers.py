"""Worker processes of one thread that end with the process that started them, however it ends."""

from __future__ import annotations

import ctypes
import signal
import sys
from concurrent.futures import ProcessPoolExecutor

_PARENT_DEATH_SIGNAL = 1


def _begin() -> None:
    import torch

    from lbgnas.engine.machine import prepare_cpu

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    prepare_cpu()
    torch.set_num_threads(1)


def workers(count: int) -> ProcessPoolExecutor:
    """Return a pool of so many of them."""
    return ProcessPoolExecutor(count, initializer=_begin)
