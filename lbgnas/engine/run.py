"""What every run does alike: its folder, its checkpoint, and how it is stopped and gone on with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn

import torch

from lbgnas.engine.checkpoint import load_checkpoint, save_checkpoint
from lbgnas.engine.interrupts import Interrupted, Interrupts
from lbgnas.engine.reporting import Reporter
from lbgnas.engine.run_folder import CHECKPOINT, Metrics, Unwritten
from lbgnas.errors import LbgnasError
from lbgnas.ranks import ALONE, PeerLost, Ranks


class Run(ABC):
    """A run in its folder.

    Args:
        folder: the run folder, already made.
        device: where to compute; the CPU by default.
        report: receives the progress; silent by default.
        ranks: the processes that share the run; the first one alone writes the folder.
    """

    kind: ClassVar[Literal["search", "evaluation", "groups"]]

    def __init__(
        self, folder: Path, device: torch.device | None, report: Reporter | None, ranks: Ranks = ALONE
    ) -> None:
        self.folder = folder
        self.ranks = ranks
        self.device = device or torch.device("cpu")
        self.report = report or Reporter()
        self.epoch = self.step_in_epoch = 0

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """Return everything the run depends on from here, as tensors, numbers and text."""

    @abstractmethod
    def restore(self, content: Mapping[str, Any]) -> None:
        """Take over what `content` returned."""

    def gather(self) -> None:  # noqa: B027 - one process has everything
        """Bring what the processes have of the run's state to all of them; nothing to do for one."""

    def save(self) -> None:
        """Write the checkpoint of what all processes have; they call it together."""
        self.gather()
        self.write()

    def write(self) -> None:
        """Write the checkpoint of what this process has, if it is the one that writes."""
        if not self.ranks.first:
            return
        save_checkpoint(self.folder / CHECKPOINT, self.kind, self.identity, self.content())

    def start(self, resume: bool) -> None:
        """Go on from the folder's checkpoint if there is one and it is wanted, else write the first.

        Raises:
            LbgnasError: if the checkpoint is broken or of another run.
        """
        path = self.folder / CHECKPOINT
        if not resume or not self.ranks.of_first(path.exists):
            self.save()
            return
        content = load_checkpoint(path, self.kind, self.identity)
        try:
            self.restore(content)
        except LbgnasError as error:
            raise LbgnasError(f"{path}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise LbgnasError(f"{path}: does not fit this run ({' '.join(str(error).split())[:160]})") from None

    def stop(self, where: str, signal_number: int) -> NoReturn:
        """Write the checkpoint and end.

        Raises:
            Interrupted: always.
        """
        self.save()
        raise self.interrupted(where, signal_number)

    def interrupted(self, where: str, signal_number: int) -> Interrupted:
        """Return what ends a run whose checkpoint is written."""
        return Interrupted(f"stopped {where}; go on with --resume {self.folder}", signal_number)

    @contextmanager
    def under_way(
        self, what: str, total: int, done: int, records: Container[int]
    ) -> Iterator[tuple[Interrupts, Metrics]]:
        """Watch for signals, open the metrics and tell the progress.

        Args:
            what: of the progress.
            total, done: steps of it.
            records: numbers of the records that stay; others in the file are taken back.
        """
        # The handlers first: opening the event files takes seconds, in which a Ctrl-C counts as well.
        with Interrupts() as interrupts:
            metrics = Metrics(self.folder, records) if self.ranks.first else Unwritten()
            self.report.begin(what, total, done)
            try:
                yield interrupts, metrics
            finally:
                metrics.close()
                self.report.end()


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Say where a run goes on from when one of its processes died inside.

    Raises:
        PeerLost: with the sentence.
    """
    try:
        yield
    except PeerLost as lost:
        known = (folder / CHECKPOINT).exists()
        rest = f"go on from the last checkpoint with --resume {folder}" if known else f"{folder} has no checkpoint yet"
        raise PeerLost(f"{lost}; {rest}") from None
