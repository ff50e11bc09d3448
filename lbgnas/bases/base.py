"""What a base is: how its supernet is wired, when its architecture is learned, and how it is read off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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

    def __call__(self, space: SearchSpace, architecture: Architecture) -> CellGenotype:
        """Return the genotype."""
        ...


@dataclass(frozen=True)
class Base:
    """A differentiable search method.

    Attributes:
        name: as on the command line.
        space: name of its search space.
        derive: how its architecture parameters become a genotype.
        architecture_rate: Adam's rate for A in the base's publication.
        warmup: share of the epochs in which A is frozen (Z is not).
    """

    name: str
    space: str
    derive: Derive
    architecture_rate: float
    warmup: float = 0.0


def find_base(name: str) -> Base:
    """Return the base of that name.

    Raises:
        LbgnasError: for an unknown name.
    """
    from lbgnas.bases.darts import DARTS
    from lbgnas.bases.pcdarts import PC_DARTS

    bases = {base.name: base for base in (DARTS, PC_DARTS)}
    if name not in bases:
        raise unknown("base", name, bases)
    return bases[name]
