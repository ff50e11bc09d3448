"""The progress of a run on a terminal (one live bar, one line an epoch) or as a plain log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from lbgnas.engine.reporting import Reporter


class Console(Reporter):
    """A live bar with remaining time on a terminal; elsewhere plain lines, one an epoch with the time left."""

    def __init__(self) -> None:
        from rich.console import Console as RichConsole

        self.console = RichConsole(highlight=False, soft_wrap=True)
        self.bar: Any = None
        self.total = self.first = self.done = 0
        self.started = 0.0

    def begin(self, title: str, total_steps: int, done_steps: int) -> None:
        """Show the bar."""
        self.total, self.first, self.done, self.started = total_steps, done_steps, done_steps, time.monotonic()
        if not self.console.is_terminal:
            self.say(f"{title}: {total_steps - done_steps} of {total_steps} steps to go")
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Left

        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            Left(),
            TextColumn("{task.fields[values]}"),
            console=self.console,
        )
        self.task = self.bar.add_task(title, total=total_steps, completed=done_steps, values="")
        self.bar.start()

    def step(self, values: Mapping[str, float]) -> None:
        """Move the bar; without values it goes on showing the last ones."""
        self.done += 1
        if self.bar is not None:
            text = " ".join(f"{name.removesuffix('_loss')} {value:.3f}" for name, value in values.items())
            self.bar.update(self.task, advance=1, **({"values": text} if values else {}))

    def epoch(self, line: str, record: Mapping[str, Any]) -> None:
        """Print the epoch's line."""
        if self.bar is None and self.done > self.first:
            left = (time.monotonic() - self.started) / (self.done - self.first) * (self.total - self.done)
            first, *rest = line.split("\n")
            line = "\n".join([f"{first} | {left:.0f}s left", *rest])
        self.say(line)

    def say(self, message: str) -> None:
        """Print a message above the bar."""
        (self.bar.console if self.bar is not None else self.console).print(message, markup=False)

    def end(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
