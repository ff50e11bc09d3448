"""Several processes as one run: which expert belongs to which process, and the few numbers that cross between them.

Every exchange begins with a word from each process whether it goes on. So an error of one process becomes the same
error in all, wherever the others are just then, and no process waits for one that will not come.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from lbgnas.errors import LbgnasError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Value = TypeVar("Value")

LONGEST_WAIT = timedelta(days=7)
"""A process may wait for another one's whole epoch; a death is told by the connection, not by the clock."""


class PeerLost(LbgnasError):
    """Another process of the run is gone: nothing may be exchanged any more."""


class Place(NamedTuple):
    """What torchrun tells a process: its number, how many there are, and both on this machine alone."""

    rank: int
    processes: int
    local: int
    beside: int


def place() -> Place:
    """Return this process's place in its environment; without torchrun it is the only one.

    Example:
        >>> place()
        Place(rank=0, processes=1, local=0, beside=1)
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if not all(os.environ.get(name, "").isdecimal() for name in names):
        return Place(0, 1, 0, 1)
    return Place(*(int(os.environ[name]) for name in names))


class Ranks:
    """One process alone: every expert is its own and nothing is exchanged; the base of several.

    Attributes:
        rank: number of this process.
        count: how many there are.

    Example:
        >>> ALONE.owns(3), ALONE.gathered("mine"), ALONE.signal(None)
        (True, ['mine'], None)
    """

    rank, count = 0, 1

    @property
    def first(self) -> bool:
        """Whether this process writes the run folder and talks."""
        return self.rank == 0

    def owns(self, index: int) -> bool:
        """Return whether an expert (or a scout) belongs to this process: k belongs to k mod count."""
        return index % self.count == self.rank

    def require(self, experts: int) -> None:
        """Refuse more processes than experts.

        Raises:
            LbgnasError: says how many of both.
        """
        if self.count > experts:
            have = "1 expert" if experts == 1 else f"{experts} experts"
            raise LbgnasError(
                f"torchrun: {self.count} processes for {have}, at most one for each is allowed; "
                f"use --nproc-per-node {experts}"
            )

    def once(self, value: Tensor) -> Tensor:
        """Return what all processes have in a form that `sum` does not count twice: zeros but in the first."""
        return value if self.first else value.new_zeros(()).expand_as(value)

    def sum(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Return the sum of each tensor over the processes; shapes are the same in all."""
        return list(values)

    def gathered(self, value: Value) -> list[Value]:
        """Return the value of every process, by rank; tensors in it must be on the CPU."""
        return [value]

    def of_first(self, make: Callable[[], Value]) -> Value:
        """Return what the first process makes."""
        return make()

    def signal(self, received: int | None) -> int | None:
        """Return the number of a signal that any process received: all stop at the same place."""
        return received

    def agreed(self, *also: type[Exception]) -> AbstractContextManager[None]:
        """Let an `LbgnasError` (or one of `also`) that one process raises inside be raised by all."""
        return nullcontext()


ALONE = Ranks()


class Processes(Ranks):
    """One of several processes, connected by `torch.distributed`.

    Raises:
        PeerLost: from every exchange, once another process is gone.
    """

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count
        self._common: Exception | None = None

    def sum(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums, by one exchange of one vector."""
        import torch

        self._meet()
        widest = max((value.dtype for value in values), key=lambda dtype: (dtype.is_floating_point, dtype.itemsize))
        vector = torch.cat([value.detach().reshape(-1).to(widest) for value in values])
        _exchange(lambda dist: dist.all_reduce(vector))
        parts = torch.split(vector, [value.numel() for value in values])
        return [part.reshape(value.shape).to(value.dtype) for part, value in zip(parts, values, strict=True)]

    def gathered(self, value: Value) -> list[Value]:
        """Return the value of every process."""
        from lbgnas.packing import packed, unpacked

        self._meet()
        return [unpacked(*each) for each in self._all(packed(value))]

    def of_first(self, make: Callable[[], Value]) -> Value:
        """Return what the first process makes; the others wait for it."""
        return self.gathered(make() if self.first else None)[0]  # type: ignore[return-value]

    def signal(self, received: int | None) -> int | None:
        """Return the largest number received."""
        return self._meet(received=received or 0) or None

    @contextmanager
    def agreed(self, *also: type[Exception]) -> Iterator[None]:
        """Raise in all processes what the lowest one raised that raised anything."""
        kinds: tuple[type[Exception], ...] = (LbgnasError, *also)
        try:
            yield
        except PeerLost:
            raise
        except kinds as error:
            if error is not self._common:  # what all know already is not told again
                self._meet(error)
            raise
        self._meet()

    def _meet(self, error: Exception | None = None, received: int = 0) -> int:
        import torch

        facts = torch.tensor([int(error is not None), received])
        _exchange(lambda dist: dist.all_reduce(facts, dist.ReduceOp.MAX))
        failed, number = facts.tolist()
        if failed:
            errors = [known for known in self._all(error) if known is not None]
            self._common = errors[0]
            raise self._common from None
        return int(number)

    def _all(self, value: Value) -> list[Value]:
        found: list[Any] = [None] * self.count
        _exchange(lambda dist: dist.all_gather_object(found, value))
        return found


def _exchange(action: Callable[[Any], object]) -> None:
    import torch.distributed as dist

    try:
        action(dist)
    except RuntimeError as error:
        reason = " ".join(str(error).rpartition("] ")[2].split())[:80]
        raise PeerLost(f"another process of this run died ({reason})") from None


def _ended(number: int, frame: FrameType | None) -> NoReturn:
    raise PeerLost("told to end (SIGTERM), as torchrun does when another process of the run died")


@contextmanager
def started(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that torchrun started, for as long as the context lasts; one process is alone.

    An `LbgnasError` inside is raised by all.

    Args:
        device: where this process computes; what is on the CPU crosses by gloo, what is on a GPU by nccl.

    Raises:
        PeerLost: if the processes do not find each other.
    """
    rank, count, *_ = place()
    if count == 1:
        yield ALONE
        return
    import torch.distributed as dist

    before = signal.signal(signal.SIGTERM, _ended)
    try:
        backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, timeout=LONGEST_WAIT)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise PeerLost(f"torchrun: process {rank} of {count} does not reach the others ({reason})") from None
    ranks = Processes(rank, count)
    try:
        with ranks.agreed():
            yield ranks
        dist.destroy_process_group()
    finally:
        signal.signal(signal.SIGTERM, before)
