"""How discrete cells are read off architecture parameters: what the bases share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lbgnas.bases.base import Architecture
from lbgnas.genotype import Pairs
from lbgnas.space import Kind, SearchSpace, edge_index

EDGES_PER_NODE = 2
SKIP = "skip_connect"

Numbers = NDArray[np.floating]
Read = Callable[[Numbers], Pairs]
"""Strengths (edges, candidates) to the edges of a cell, two for each node."""


def softmax(values: Numbers) -> Numbers:
    """Return the softmax over the last axis, in the precision of its input."""
    shifted = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def strengths(space: SearchSpace, kind: Kind, architecture: Architecture) -> Numbers:
    """Return softmax(alpha) of every edge, times softmax(beta) over the edges into the same node where there are betas.

    Returns:
        (edges, candidates); 0 in the unused columns of edges with fewer candidates. `none` is part of the sum.
    """
    alphas = architecture[f"alphas_{kind}"]
    result = np.zeros_like(alphas)
    for row, width in enumerate(space.widths(kind)):
        result[row, :width] = softmax(alphas[row, :width])
    if not space.edge_normalisation:
        return result
    bounds = np.cumsum([2 + node for node in range(space.nodes)])[:-1]
    edges = np.concatenate([softmax(group) for group in np.split(architecture[f"betas_{kind}"], bounds)])
    return np.asarray(result * edges[:, None])


def strongest(operations: tuple[tuple[str, ...], ...], strengths: Numbers) -> Pairs:
    """Return, for every node, its two strongest edges in descending order, each with its strongest operation.

    An edge is as strong as its strongest operation other than none. Ties go to the lower edge and operation.

    Args:
        operations: candidates of each edge.
        strengths: (edges, candidates).
    """
    pairs: list[tuple[str, int]] = []
    for node in range(count_nodes(len(operations))):
        ranked: list[tuple[float, int, str]] = []
        for source in range(2 + node):
            row = edge_index(node, source)
            allowed = [(float(strengths[row, k]), name) for k, name in enumerate(operations[row]) if name != "none"]
            best, name = max(allowed, key=lambda item: item[0])
            ranked.append((best, source, name))
        ranked.sort(key=lambda item: -item[0])
        pairs += [(name, source) for _, source, name in ranked[:EDGES_PER_NODE]]
    return tuple(pairs)


def count_nodes(edges: int) -> int:
    """Return how many nodes a cell with so many edges has, node n having 2 + n of them.

    Example:
        >>> count_nodes(14)
        4
    """
    nodes = 0
    while edge_index(nodes, 0) < edges:
        nodes += 1
    return nodes


def limited(operations: tuple[tuple[str, ...], ...], strengths: Numbers, read: Read, max_skips: int | None) -> Pairs:
    """Return what `read` reads, with at most `max_skips` skip connections (the rule of P-DARTS, for any base).

    As long as there are more: the weakest skip among the edges that were read gets strength 0 for good, and the cell
    is read again; so another operation takes its edge, or another edge its place. Where no other operation is left,
    more skips may remain.

    Args:
        operations: candidates of each edge.
        strengths: (edges, candidates).
        read: strengths to edges.
        max_skips: None for any number.
    """
    strengths = strengths.copy()
    while True:
        pairs = read(strengths)
        rows = [
            edge_index(position // EDGES_PER_NODE, source)
            for position, (name, source) in enumerate(pairs)
            if name == SKIP
        ]
        cells = [(row, operations[row].index(SKIP)) for row in rows]
        weakening = [cell for cell in cells if strengths[cell] > 0]
        if max_skips is None or len(cells) <= max_skips or not weakening:
            return pairs
        strengths[min(weakening, key=lambda cell: float(strengths[cell]))] = 0
