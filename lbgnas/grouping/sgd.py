"""Stochastic gradient descent as a pure function, and its derivative with respect to the gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


class Sgd(NamedTuple):
    """SGD's settings: S' = S - rate (momentum b + c g + weight_decay S), c the clip factor min(1, clip / |g|)."""

    rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip: float | None = None


def norm(tensors: Tensors) -> Tensor:
    """Return the Euclidean norm over all tensors together."""
    size: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors.values()))))
    return size


def clip_factor(gradient: Tensors, clip: float | None) -> Tensor:
    """Return c = min(1, clip / (|g| + 1e-6)), torch's rule."""
    size = norm(gradient)
    return torch.ones_like(size) if clip is None else (clip / (size + 1e-6)).clamp(max=1.0)


@torch.no_grad()
def sgd_step(weights: Tensors, gradient: Tensors, buffers: Tensors, settings: Sgd) -> tuple[Tensors, Tensors]:
    """Return the new weights and momentum buffers; nothing is edited in place.

    Args:
        weights: S by name.
        gradient: g, same names and shapes.
        buffers: b, same names and shapes; zeros at the start.
        settings: rates, momentum, weight decay and clip.

    Example:
        >>> one = {"w": torch.ones(1)}
        >>> new, _ = sgd_step(one, one, {"w": torch.zeros(1)}, Sgd(rate=0.5))
        >>> new["w"].item()
        0.5
    """
    names = list(weights)
    old = [weights[name] for name in names]
    direction: tuple[Tensor, ...] | list[Tensor] = [gradient[name] for name in names]
    if settings.clip is not None:
        direction = torch._foreach_mul(direction, clip_factor(gradient, settings.clip))
    if settings.weight_decay:
        direction = torch._foreach_add(direction, old, alpha=settings.weight_decay)
    if settings.momentum:
        moved = torch._foreach_mul([buffers[name] for name in names], settings.momentum)
        direction = torch._foreach_add(moved, direction)
    new = torch._foreach_add(old, direction, alpha=-settings.rate)
    kept = dict(zip(names, direction, strict=True)) if settings.momentum else buffers
    return dict(zip(names, new, strict=True)), kept


@torch.no_grad()
def through_step(covector: Tensors, gradient: Tensors, settings: Sgd) -> Tensors:
    """Return u with <covector, dS'> = -<u, dg>: how a change of the gradient reaches what S' is used for.

    u = rate c (v - <v, g> / (|g| (|g| + 1e-6)) g) where the clip acts, rate v where it does not. Momentum and weight
    decay do not depend on the gradient.
    """
    names = list(covector)
    scaled = torch._foreach_mul([covector[name] for name in names], settings.rate)
    if settings.clip is None:
        return dict(zip(names, scaled, strict=True))
    size = norm(gradient)
    factor = clip_factor(gradient, settings.clip)
    parts = [gradient[name] for name in names]
    along = torch.stack([(u * g).sum() for u, g in zip(scaled, parts, strict=True)]).sum()
    # No branch on a tensor's value: where the clip does not act the projection is multiplied by zero.
    along = along / (size * (size + 1e-6)).clamp_min(torch.finfo(size.dtype).tiny) * (factor < 1)
    projected = torch._foreach_sub(scaled, torch._foreach_mul(parts, along))
    return dict(zip(names, torch._foreach_mul(projected, factor), strict=True))
