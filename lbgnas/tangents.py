"""Values with their derivatives along one direction: forward mode written out where torch's own is slow.

Torch passes every operation that meets a tensor without a tangent through Python, at a hundred times its cost. Here
values and tangents are taken apart, both computed by plain operations, and joined again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor


class Pair(NamedTuple):
    """A value and its derivative along the direction of the pass under way, None for zero."""

    value: Tensor
    along: Tensor | None


def taken_apart(x: Tensor) -> Pair:
    """Return a tensor's value and tangent."""
    value, along = forward_ad.unpack_dual(x)  # type: ignore[no-untyped-call]
    return Pair(value, along)


def joined(value: Tensor, along: Tensor) -> Tensor:
    """Return one tensor of a value and its tangent."""
    dual: Tensor = forward_ad.make_dual(value, along)  # type: ignore[no-untyped-call]
    return dual


def linear(apply: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return apply(*inputs) for a map that is linear in all of them together, with its tangent."""
    pairs = [taken_apart(x) for x in inputs]
    value = apply(*(pair.value for pair in pairs))
    if all(pair.along is None for pair in pairs):
        return value
    return joined(value, apply(*(torch.zeros_like(x) if along is None else along for x, along in pairs)))


def inverse_root(variance: Tensor, eps: float) -> Tensor:
    """Return 1 / sqrt(variance + eps), with its tangent."""
    value, along = taken_apart(variance)
    root = (value + eps).rsqrt()
    return root if along is None else joined(root, along * (root * root * root) * -0.5)


def shifted(x: Tensor, by: Tensor) -> Tensor:
    """Return x + by for a constant, with x's tangent."""
    value, along = taken_apart(x)
    return value + by if along is None else joined(value + by, along)
