"""P-DARTS (Chen et al.: arXiv:1904.12760): deeper supernets with fewer operations in each of three stages."""

from __future__ import annotations

import math
from fractions import Fraction

from lbgnas.bases.base import Architecture, Base
from lbgnas.bases.derivation import EDGES_PER_NODE, Numbers, count_nodes, limited, strengths
from lbgnas.genotype import CellGenotype, Pairs
from lbgnas.space import KINDS, Kind, SearchSpace, edge_index

DECAY = 0.2
"""By which the exponent of the dropout falls an epoch, once A is learned."""


def skip_dropout(start: float, epoch: int, epochs: int, warmup: int) -> float:
    """Return the probability with which entries of plain skips are dropped in an epoch of a stage.

    start (E - e - 1) / E as long as A is frozen, then start exp(-0.2 (e - w)): it jumps back to start at e = w.

    Args:
        start: of the stage.
        epoch: e, from 0.
        epochs: E.
        warmup: w, epochs with A frozen.

    Example:
        >>> [round(skip_dropout(0.4, epoch, 25, 10), 5) for epoch in (0, 9, 10, 24)]
        [0.384, 0.24, 0.4, 0.02432]
    """
    if epoch < warmup:
        return start * (epochs - epoch - 1) / epochs
    return start * math.exp(-DECAY * (epoch - warmup))


def kept_candidates(share: Fraction, candidates: int) -> int:
    """Return how many of an edge's candidates a stage has: the share rounded up, at least 2 where there are 2.

    Example:
        >>> [kept_candidates(share, 8) for share in P_DARTS.kept], [kept_candidates(share, 4) for share in P_DARTS.kept]
        ([8, 5, 3], [4, 3, 2])
    """
    return max(min(2, candidates), math.ceil(share * candidates))


def prune(space: SearchSpace, architecture: Architecture, keep: dict[Kind, int]) -> SearchSpace:
    """Return the space without the weakest candidates of every edge.

    The candidate with the lowest softmax(alpha) goes first, `none` like any other; ties to the lower one.

    Args:
        space: the space with the candidates of the stage that ends.
        architecture: its alphas.
        keep: candidates that remain on an edge, for each kind of cell.
    """
    return space.with_operations(
        {
            kind: tuple(
                kept_names(names, values, keep[kind])
                for names, values in zip(space.operations[kind], strengths(space, kind, architecture), strict=True)
            )
            for kind in KINDS
        }
    )


def kept_names(names: tuple[str, ...], values: Numbers, count: int) -> tuple[str, ...]:
    """Return `count` names of an edge after dropping the weakest again and again.

    Example:
        >>> kept_names(("a", "b", "c"), np.array([0.3, 0.2, 0.5]), 2)
        ('a', 'c')
    """
    left = list(range(len(names)))
    while len(left) > count:
        left.remove(min(left, key=lambda column: float(values[column])))
    return tuple(names[column] for column in left)


def derive(space: SearchSpace, architecture: Architecture, max_skips: int | None = None) -> CellGenotype:
    """Return the genotype of the last stage: one operation an edge, two edges a node in ascending order.

    On every edge the strongest candidate other than none is left (ties to the higher one); an edge is as strong as
    that. A node keeps its two strongest edges (ties to the higher one).

    Args:
        space: the space with the candidates of the last stage.
        architecture: its alphas.
        max_skips: skip connections that the normal cell may have.
    """

    def read(kind: Kind, most: int | None) -> Pairs:
        operations = space.operations[kind]
        found = strengths(space, kind, architecture)
        return limited(operations, found, lambda values: ascending(operations, values), most)

    return CellGenotype(read("normal", max_skips), space.concat, read("reduce", None), space.concat)


def ascending(operations: tuple[tuple[str, ...], ...], values: Numbers) -> Pairs:
    """Return, for every node, its two strongest edges in ascending order; ties go to the higher edge and operation."""
    pairs: list[tuple[str, int]] = []
    for node in range(count_nodes(len(operations))):
        edges: list[tuple[float, int, str]] = []
        for source in range(2 + node):
            row = edge_index(node, source)
            allowed = [(float(values[row, k]), k, name) for k, name in enumerate(operations[row]) if name != "none"]
            best, _, name = max(allowed)
            edges.append((best, source, name))
        two = sorted(edges)[-EDGES_PER_NODE:]
        pairs += [(name, source) for _, source, name in sorted(two, key=lambda edge: edge[1])]
    return tuple(pairs)


P_DARTS = Base(
    "pdarts",
    space="pdarts",
    derive=derive,
    architecture_rate=6e-4,
    architecture_clip=5.0,
    warmup=0.4,
    kept=(Fraction(1), Fraction(5, 8), Fraction(3, 8)),
    max_skips=2,
)
