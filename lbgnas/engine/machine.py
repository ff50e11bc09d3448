"""What is set once a process, before the first convolution."""

from __future__ import annotations

import ctypes
import os
import sys


def prepare_cpu() -> None:
    """Keep freed memory and compiled convolutions, which a search asks for again and again.

    On Linux, large blocks go back to the system at once and are faulted in anew; every new group size compiles its
    own convolutions, and the stock cache holds only 1,024 of them. Threads that spin while they wait slow a search
    several times as soon as another program wants a core. What the user has set stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "65536")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc only
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30)
