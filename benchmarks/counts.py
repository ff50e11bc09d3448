"""Exact counts of one pass: tensor operations, and bytes kept for the backward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_STILL = {"aten::_unsafe_view", "aten::detach", "aten::empty", "aten::empty_like", "aten::empty_strided"}


class Operations(TorchDispatchMode):
    """Counts what reaches the backend, by name; views and empty allocations, which move nothing, are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view and func._schema.name not in _STILL:
            self.calls[str(func)] += 1
        return func(*args, **(kwargs or {}))


def count_operations(run: Callable[[], object]) -> Counter[str]:
    """Return how often each operation ran."""
    with Operations() as counter:
        run()
    return counter.calls


def saved_bytes(run: Callable[[], object], without: Iterable[Tensor]) -> int:
    """Return the bytes that the forward in `run` keeps for its backward: each storage once, `without` never."""
    known = {tensor.untyped_storage().data_ptr() for tensor in without}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)  # an address must not be handed out twice
        return tensor.detach()  # an output that holds itself would never be freed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = run()
    del graph
    return sum(kept.values())
