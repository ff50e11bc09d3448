"""Schedules in closed form, so that any epoch can be resumed."""

from __future__ import annotations

import math


def cosine(rate: float, minimum: float, epoch: int, epochs: int) -> float:
    """Return minimum + (rate - minimum) (1 + cos(pi epoch / epochs)) / 2; the minimum itself is never reached.

    Example:
        >>> round(cosine(0.025, 0.001, 1, 50), 8), round(cosine(0.025, 0.001, 49, 50), 8)
        (0.02497632, 0.00102368)
    """
    return minimum + (rate - minimum) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def ramp(largest: float, epoch: int, epochs: int) -> float:
    """Return largest * epoch / epochs, 0 in the first epoch (drop-path of the evaluation)."""
    return largest * epoch / epochs
