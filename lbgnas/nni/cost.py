"""What a relaxed network is expected to cost, as a function of its alphas."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lbgnas.batch_statistics import BatchStatistics
from lbgnas.errors import LbgnasError
from lbgnas.grouping.cost import Cost
from lbgnas.grouping.sgd import Tensors
from lbgnas.networks.counting import count_parameters
from lbgnas.nni.relaxed import Relaxed

Measure = Literal["flops", "parameters"]
MEASURES: tuple[Measure, ...] = ("flops", "parameters")


def candidate_costs(network: nn.Module, measure: Measure, images: Tensor) -> dict[str, Tensor]:
    """Return what each candidate costs, by name of the alpha that weighs it; cells that share an alpha are summed.

    Args:
        network: a relaxed network.
        measure: floating-point operations of a forward pass of one image, or parameters.
        images: of whose shape one is passed.

    Raises:
        LbgnasError: if there are no candidates to weigh.
    """
    flops = _flops(network, images) if measure == "flops" else {}
    names = {id(value): name for name, value in network.named_parameters()}
    places = {id(module): name for name, module in network.named_modules()}
    costs: dict[str, Tensor] = {}
    for module in network.modules():
        if not isinstance(module, Relaxed):
            continue
        for alpha, candidates, modules in module.mixed().values():
            name = names[id(alpha)]
            # A candidate without a module is the edge that is not there.
            values = [
                0
                if one not in modules
                else flops.get(places[id(modules[one])], 0)
                if measure == "flops"
                else count_parameters(modules[one])
                for one in candidates
            ]
            costs[name] = costs.get(name, 0) + torch.tensor(values, dtype=torch.float64)
    if not any(bool(own.any()) for own in costs.values()):
        raise LbgnasError(f"LBG: cost={measure!r}: the space has no choice between layers that have any; leave it out")
    return costs


def _flops(network: nn.Module, images: Tensor) -> dict[str, int]:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), BatchStatistics(update=False), counter:
        network(torch.zeros_like(images[:1]))
    start = f"{type(network).__name__}."
    return {
        name.removeprefix(start): sum(counts.values())
        for name, counts in counter.get_flop_counts().items()
        if name.startswith(start)
    }


def expected_cost(costs: dict[str, Tensor], weight: float) -> Cost:
    """Return weight * E[cost] / E[cost at equal alphas] as a function of A.

    E is the sum over all choices of softmax(alpha) times the candidates' costs: differentiable in every alpha.
    """
    equal = sum(float(own.mean()) for own in costs.values())

    def cost(architecture: Tensors) -> Tensor:
        terms = [(architecture[name].softmax(-1) * own.to(architecture[name])).sum() for name, own in costs.items()]
        return weight * torch.stack(terms).sum() / equal

    return cost
