"""What a run tells while it goes on; the tools show it, the library stays silent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Reporter:
    """Receives the progress of a run and does nothing with it; the base of those that show it."""

    def begin(self, title: str, total_steps: int, done_steps: int) -> None:
        """A run (or one expert's training) starts or goes on."""

    def step(self, values: Mapping[str, float]) -> None:
        """One step is done."""

    def epoch(self, line: str, record: Mapping[str, Any]) -> None:
        """One epoch is done."""

    def say(self, message: str) -> None:
        """Something the user should read."""

    def end(self) -> None:
        """The run is over or was stopped."""
