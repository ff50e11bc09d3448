"""DARTS (Liu, Simonyan, Yang: arXiv:1806.09055)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lbgnas.bases.base import Architecture, Base
from lbgnas.genotype import CellGenotype
from lbgnas.space import SearchSpace, edge_index

EDGES_PER_NODE = 2


def softmax(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the softmax over the last axis, in the precision of its input."""
    shifted = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def strongest(
    space: SearchSpace, operations: tuple[tuple[str, ...], ...], strengths: NDArray[np.floating]
) -> tuple[tuple[str, int], ...]:
    """Return, for every node, its two strongest edges in descending order, each with its strongest operation.

    An edge is as strong as its strongest operation other than none. Ties go to the lower edge and operation.

    Args:
        space: the search space.
        operations: candidates of each edge.
        strengths: (edges, candidates).
    """
    pairs: list[tuple[str, int]] = []
    for node in range(space.nodes):
        ranked: list[tuple[float, int, str]] = []
        for source in range(2 + node):
            row = edge_index(node, source)
            allowed = [(float(strengths[row, k]), name) for k, name in enumerate(operations[row]) if name != "none"]
            best, name = max(allowed, key=lambda item: item[0])
            ranked.append((best, source, name))
        ranked.sort(key=lambda item: -item[0])
        pairs += [(name, source) for _, source, name in ranked[:EDGES_PER_NODE]]
    return tuple(pairs)


def derive(space: SearchSpace, architecture: Architecture) -> CellGenotype:
    """Return the genotype of the alphas: strengths are softmax(alpha), none included in the sum.

    Example:
        >>> from lbgnas.space import load_space
        >>> derive(load_space("darts"), {c: np.zeros((14, 8)) for c in ("alphas_normal", "alphas_reduce")}).normal[:2]
        (('max_pool_3x3', 0), ('max_pool_3x3', 1))
    """
    normal, reduce = (
        strongest(space, space.operations[kind], softmax(architecture[f"alphas_{kind}"]))
        for kind in ("normal", "reduce")
    )
    return CellGenotype(normal, space.concat, reduce, space.concat)


DARTS = Base("darts", space="darts", derive=derive, architecture_rate=3e-4)
