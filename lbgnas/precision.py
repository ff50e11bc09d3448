"""Which numbers a pass computes in: bfloat16 for what is large, float32 for what must be exact."""

from __future__ import annotations

import torch
from torch import Tensor


def exact_type(x: Tensor) -> torch.dtype:
    """Return float32 for a type with fewer digits, else the tensor's own type.

    Example:
        >>> exact_type(torch.zeros(1, dtype=torch.bfloat16)), exact_type(torch.zeros(1, dtype=torch.float64))
        (torch.float32, torch.float64)
    """
    return torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype


def exact(x: Tensor) -> Tensor:
    """Return a tensor in its exact type: what sums over samples, and small matrices made of them, are computed in."""
    return x.to(exact_type(x))
