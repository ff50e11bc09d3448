"""PC-DARTS (Xu et al.: arXiv:1907.05737): partial channels, edge normalisation, a warm-up of the weights."""

from __future__ import annotations

import numpy as np

from lbgnas.bases.base import Architecture, Base
from lbgnas.bases.darts import softmax, strongest
from lbgnas.genotype import CellGenotype
from lbgnas.space import SearchSpace


def derive(space: SearchSpace, architecture: Architecture) -> CellGenotype:
    """Return the genotype: strengths are softmax(alpha) times softmax(beta) over the edges into the same node."""
    cells = []
    bounds = np.cumsum([2 + node for node in range(space.nodes)])[:-1]
    for kind in ("normal", "reduce"):
        groups = np.split(architecture[f"betas_{kind}"], bounds)
        edges = np.concatenate([softmax(group) for group in groups])
        strengths = softmax(architecture[f"alphas_{kind}"]) * edges[:, None]
        cells.append(strongest(space, space.operations[kind], strengths))
    return CellGenotype(cells[0], space.concat, cells[1], space.concat)


PC_DARTS = Base("pcdarts", space="pcdarts", derive=derive, architecture_rate=6e-4, warmup=0.3)
