"""What a base is: its space, its stages, when its architecture is learned, and how it is read off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lbgnas.errors import unknown
from lbgnas.genotype import CellGenotype
from lbgnas.space import SearchSpace

Architecture = Mapping[str, NDArray[np.floating]]
"""Architecture parameters by name: alphas_normal, alphas_reduce and, with edge normalisation, betas_*."""


class Derive(Protocol):
    """Reads a discrete cell off architecture parameters."""

    def __call__(self, space: SearchSpace, architecture: Architecture, max_skips: int | None = None) -> CellGenotype:
        """Return the genotype, with at most so many skip connections in its normal cell where that is possible."""
        ...


@dataclass(frozen=True)
class Base:
    """A differentiable search method.

    Attributes:
        name: as on the command line.
        space: name of its search space.
        derive: how its architecture parameters become a genotype.
        architecture_rate: Adam's rate for A in the base's publication.
        architecture_clip: largest norm of one expert's gradient of A; None for any.
        warmup: share of the epochs of each stage in which A is frozen (Z is not).
        kept: for each stage, the share of the candidates that its supernets have; between stages the weakest candidates
            of every edge are dropped and the supernets built anew.
        max_skips: skip connections that a normal cell may have; None for any number.
        auxiliary_skip: whether a skip of decaying weight stands beside every edge.
    """

    name: str
    space: str
    derive: Derive
    architecture_rate: float
    architecture_clip: float | None = None
    warmup: float = 0.0
    kept: tuple[Fraction, ...] = (Fraction(1),)
    max_skips: int | None = None
    auxiliary_skip: bool = False


def find_base(name: str) -> Base:
    """Return the base of that name.

    Raises:
        LbgnasError: for an unknown name.
    """
    from lbgnas.bases.darts import DARTS, PC_DARTS
    from lbgnas.bases.darts_minus import DARTS_MINUS
    from lbgnas.bases.pdarts import P_DARTS

    bases = {base.name: base for base in (DARTS, P_DARTS, PC_DARTS, DARTS_MINUS)}
    if name not in bases:
        raise unknown("base", name, bases)
    return bases[name]
