"""DARTS- (Chu et al.: arXiv:2009.01027): a skip of decaying weight beside every edge."""

from __future__ import annotations

import math
from typing import Literal

from lbgnas.bases.base import Base
from lbgnas.bases.darts import derive

Decay = Literal["linear", "cosine", "slow-cosine", "constant"]


def auxiliary_weight(decay: Decay, start: float, epoch: int, epochs: int) -> float:
    """Return beta, the weight of the auxiliary skips in an epoch.

    linear: start (1 - e / E); cosine: start (1 + cos(pi e / E)) / 2; slow-cosine: start cos(pi e / 2E).

    Args:
        decay: which of them.
        start: beta of the first epoch.
        epoch: e, from 0.
        epochs: E.

    Example:
        >>> [auxiliary_weight("linear", 1.0, epoch, 50) for epoch in (0, 25)]
        [1.0, 0.5]
    """
    return (
        start
        * {
            "linear": 1 - epoch / epochs,
            "cosine": (1 + math.cos(math.pi * epoch / epochs)) / 2,
            "slow-cosine": math.cos(math.pi * epoch / (2 * epochs)),
            "constant": 1.0,
        }[decay]
    )


DARTS_MINUS = Base("darts-", space="darts-minus-s0", derive=derive, architecture_rate=3e-4, auxiliary_skip=True)
