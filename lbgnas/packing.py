"""Nested values with many small tensors as a few long ones: a thousand tensors are slow to send one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Slot(NamedTuple):
    """Where a tensor lies: in the vector of its type, from which number on, and of what shape."""

    dtype: torch.dtype
    start: int
    shape: tuple[int, ...]


def packed(value: Any) -> tuple[Any, dict[torch.dtype, Tensor]]:
    """Return a value with slots in place of the tensors in its mappings and lists, and a vector for each type.

    Example:
        >>> form, vectors = packed({"a": [torch.zeros(2), torch.ones(())], "b": 3})
        >>> form["a"][1], vectors[torch.float32].tolist()
        (Slot(dtype=torch.float32, start=2, shape=()), [0.0, 0.0, 1.0])
        >>> unpacked(form, vectors)
        {'a': [tensor([0., 0.]), tensor(1.)], 'b': 3}
    """
    parts: dict[torch.dtype, list[Tensor]] = {}
    lengths: dict[torch.dtype, int] = {}

    def put(item: Any) -> Any:
        if isinstance(item, Tensor):
            start = lengths.get(item.dtype, 0)
            lengths[item.dtype] = start + item.numel()
            parts.setdefault(item.dtype, []).append(item.detach().reshape(-1))
            return Slot(item.dtype, start, tuple(item.shape))
        if isinstance(item, Mapping):
            return {key: put(inner) for key, inner in item.items()}
        return [put(inner) for inner in item] if isinstance(item, list) else item

    form = put(value)
    return form, {dtype: torch.cat(tensors) for dtype, tensors in parts.items()}


def unpacked(form: Any, vectors: Mapping[torch.dtype, Tensor]) -> Any:
    """Return the value that was packed, its tensors with memory of their own."""
    if isinstance(form, Slot):
        return vectors[form.dtype].narrow(0, form.start, math.prod(form.shape)).reshape(form.shape).clone()
    if isinstance(form, Mapping):
        return {key: unpacked(inner, vectors) for key, inner in form.items()}
    return [unpacked(inner, vectors) for inner in form] if isinstance(form, list) else form
