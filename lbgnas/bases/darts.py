"""DARTS (Liu, Simonyan, Yang: arXiv:1806.09055) and PC-DARTS (Xu et al.: arXiv:1907.05737).

PC-DARTS is DARTS in a space with partial channels and edge normalisation, and with a warm-up of the weights.
"""

from __future__ import annotations

from lbgnas.bases.base import Architecture, Base
from lbgnas.bases.derivation import limited, softmax, strengths, strongest
from lbgnas.genotype import CellGenotype, Pairs
from lbgnas.space import Kind, SearchSpace

__all__ = ["DARTS", "PC_DARTS", "derive", "softmax", "strongest"]


def derive(space: SearchSpace, architecture: Architecture, max_skips: int | None = None) -> CellGenotype:
    """Return the genotype: for every node its two strongest edges, each with its strongest operation.

    Args:
        space: the space with the candidates that are left.
        architecture: alphas and, with edge normalisation, betas.
        max_skips: skip connections that the normal cell may have.

    Example:
        >>> import numpy as np
        >>> from lbgnas.space import load_space
        >>> derive(load_space("darts"), {c: np.zeros((14, 8)) for c in ("alphas_normal", "alphas_reduce")}).normal[:2]
        (('max_pool_3x3', 0), ('max_pool_3x3', 1))
    """

    def read(kind: Kind, most: int | None) -> Pairs:
        operations = space.operations[kind]
        found = strengths(space, kind, architecture)
        return limited(operations, found, lambda values: strongest(operations, values), most)

    return CellGenotype(read("normal", max_skips), space.concat, read("reduce", None), space.concat)


DARTS = Base("darts", space="darts", derive=derive, architecture_rate=3e-4)
PC_DARTS = Base("pcdarts", space="pcdarts", derive=derive, architecture_rate=6e-4, warmup=0.3)
