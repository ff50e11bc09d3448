"""A price on architectures beside level 3: what it adds to the hypergradient of A."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lbgnas.grouping.experts import Experts
from lbgnas.grouping.sgd import Tensors

Cost = Callable[[Tensors], Tensor]
"""A_k by name to a scalar: what is added to L3 for one expert."""


def with_cost(gradients: Mapping[int, Tensors], experts: Experts, cost: Cost | None) -> dict[int, Tensors]:
    """Return dL3/dA_k + dcost(A_k)/dA_k for every expert that has a gradient; the others stay without.

    The price depends on A alone: it has no part through S'.
    """
    if cost is None:
        return dict(gradients)
    priced = {}
    for index, own in gradients.items():
        leaves = {name: value.requires_grad_() for name, value in experts.architecture(index).items()}
        found = torch.autograd.grad(cost(leaves), list(leaves.values()), allow_unused=True, materialize_grads=True)
        priced[index] = {name: own[name] + slope for name, slope in zip(leaves, found, strict=True)}
    return priced
