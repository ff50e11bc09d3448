"""Randomness without saved state: every stream of numbers is named by a seed and some words."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *words: str | int) -> int:
    """Return a 63-bit seed that depends on `seed` and `words` alone (SHA-256), on every machine.

    Args:
        seed: any whole number; the run's seed.
        words: what the stream is for, such as `"search", epoch, step`; 1 and "1" are different words.

    Example:
        >>> derive_seed(0, "order", 3) == derive_seed(0, "order", 3) != derive_seed(0, "order", "3")
        True
    """
    text = json.dumps([seed, *words])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *words: str | int) -> torch.Generator:
    """Return a CPU generator at the start of the stream named by `seed` and `words`.

    Example:
        >>> import torch
        >>> same = [torch.rand(1, generator=generator(0, "a")).item() for _ in range(2)]
        >>> same[0] == same[1]
        True
    """
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, *words))
