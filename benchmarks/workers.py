"""Worker processes of one thread that end with the process that started them, however it ends."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

_PARENT_DEATH_SIGNAL = 1


def _begin() -> None:
    import torch

    from lbgnas.engine.machine import prepare_cpu

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    prepare_cpu()
    torch.set_num_threads(1)


@contextmanager
def workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of so many of them; after an error no further job begins."""
    pool = ProcessPoolExecutor(count, initializer=_begin)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=sys.exc_info()[0] is not None)
