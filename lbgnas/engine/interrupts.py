"""Ctrl-C and SIGTERM as a wish that the loop looks at between steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """The user or the system asked the run to stop; its checkpoint is written.

    Attributes:
        signal_number: what arrived.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message, signal_number)  # both, or it could not be sent to another process
        self.signal_number = signal_number

    def __str__(self) -> str:
        return str(self.args[0])


class Interrupts:
    """Context in which the first SIGINT or SIGTERM is remembered; a second one acts at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._remember)
        return self

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __exit__(self, *error: object) -> None:
        self._restore()
