"""The names of operations, the published ones and a user's own. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lbgnas.errors import LbgnasError

CANDIDATES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The candidate operations of DARTS, in the order of its alpha columns."""

ABBREVIATIONS: dict[str, str] = {
    "max_pool_3x3": "mp",
    "avg_pool_3x3": "ap",
    "skip_connect": "sk",
    "sep_conv_3x3": "s3",
    "sep_conv_5x5": "s5",
    "dil_conv_3x3": "d3",
    "dil_conv_5x5": "d5",
    "sep_conv_7x7": "s7",
    "conv_7x1_1x7": "c7",
    "noise": "no",
}
"""Every operation that a genotype may hold, with its short name.

`none` is left out on purpose: an edge that carries nothing is not part of an architecture.
"""

Builder = Callable[[int, int, bool], Any]
"""(channels, stride, affine) to a module (batch, C, H, W) to (batch, C, H / stride, W / stride)."""

OWN: dict[str, Builder] = {}
"""Operations added by `register_operation`."""


def candidate_names() -> tuple[str, ...]:
    """Return every operation that a search space may list."""
    return tuple(dict.fromkeys((*CANDIDATES, *ABBREVIATIONS)))


def register_operation(name: str, build: Builder, short: str) -> None:
    """Add an operation of your own to search spaces, genotypes and both kinds of networks.

    Register it in every process that searches, evaluates or draws with it. Registering the same name again replaces
    the builder.

    Args:
        name: as in search spaces and genotype files; letters, digits and underscores.
        build: (channels, stride, affine) to a torch module that keeps the channels and divides height and width by
            the stride (1 or 2); `affine` tells whether batch norms should have weights (not in a search).
        short: one or two characters for drawings and progress, used by no other operation.

    Raises:
        LbgnasError: for a name or a short form that is taken or cannot be used.

    Example:
        >>> from torch import nn
        >>> register_operation("average", lambda channels, stride, affine: nn.AvgPool2d(stride, stride), "av")
        >>> "average" in candidate_names()
        True
    """
    if name not in OWN and (name in ABBREVIATIONS or name == "none" or name.startswith("auxiliary")):
        raise LbgnasError(f"operation {name!r}: is there already; choose another name")
    if not name.isidentifier():
        raise LbgnasError(f"operation {name!r}: the name must be letters, digits and underscores")
    if not 1 <= len(short) <= 2 or not short.isalnum():
        raise LbgnasError(f"operation {name!r}: the short form {short!r} must be one or two letters or digits")
    taken = {abbreviation: other for other, abbreviation in ABBREVIATIONS.items()}
    if taken.get(short, name) != name:
        raise LbgnasError(f"operation {name!r}: the short form {short!r} belongs to {taken[short]!r}")
    OWN[name] = build
    ABBREVIATIONS[name] = short
