"""State dicts of the published implementations: their names for the tensors of our networks, in both directions.

The supernet stacks the tensors of all edges that leave a state; here each name stands for its part of the stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn

from lbgnas.errors import LbgnasError, unknown
from lbgnas.networks.layout import CifarStem, ImageNetStem
from lbgnas.networks.stacked import AuxiliaryHead, StackedNetwork
from lbgnas.networks.supernet import SearchCell, Supernet
from lbgnas.operations.candidates import FactorizedReduce
from lbgnas.operations.source import CONVOLUTIONS, SKIPS, SourceEdges

Naming = Literal["darts", "pdarts"]
"""How a repository names the edges of a supernet; PC-DARTS and DARTS- do as DARTS. Evaluation networks agree."""

EDGES = {"darts": "cells.{cell}._ops.{edge}._ops", "pdarts": "cells.{cell}.cell_ops.{edge}.m_ops"}
COUNTER = "num_batches_tracked"

Named = Iterator[tuple[str, Tensor]]


def reference_tensors(network: Supernet | StackedNetwork, naming: Naming = "darts") -> Named:
    """Yield (name in the published state dict, view of our tensor) of weights and running statistics.

    Example:
        >>> from lbgnas.space import load_space
        >>> net = Supernet(load_space("darts"), num_cells=3, channels=4, num_classes=10)
        >>> next(iter(reference_tensors(net)))[0]
        'stem.0.weight'
    """
    yield from _stem(network.stem)
    for index, cell in enumerate(network.cells):
        yield from _preprocess(f"cells.{index}.preprocess0", cell.preprocess0)  # type: ignore[arg-type]
        yield from _preprocess(f"cells.{index}.preprocess1", cell.preprocess1)  # type: ignore[arg-type]
        if isinstance(cell, SearchCell):
            for edges, rows in zip(cell.sources, cell.rows, strict=True):
                prefixes = [EDGES[naming].format(cell=index, edge=row) for row in rows]
                yield from _source_edges(cast(SourceEdges, edges), prefixes)
        else:
            for position, operation in enumerate(cell.operations):  # type: ignore[arg-type]
                yield from _operation(f"cells.{index}._ops.{position}", operation)
    if isinstance(network, StackedNetwork) and network.auxiliary_head is not None:
        yield from _auxiliary_head(network.auxiliary_head)
    yield "classifier.weight", network.classifier.weight
    yield "classifier.bias", network.classifier.bias


def reference_state(network: Supernet | StackedNetwork, naming: Naming = "darts") -> dict[str, Tensor]:
    """Return the state dict that the published implementation of the same network would save.

    P-DARTS keeps its alphas in it; the others keep theirs elsewhere (`Supernet.architecture_parameters`).
    """
    _check_naming(naming)
    state = {name: view.detach().clone() for name, view in reference_tensors(network, naming)}
    for name in [name for name in state if name.endswith("running_mean")]:
        state[name.replace("running_mean", COUNTER)] = torch.zeros((), dtype=torch.long)
    if isinstance(network, Supernet) and naming == "pdarts":
        state |= {name: value.detach().clone() for name, value in network.architecture_parameters().items()}
    return state


@torch.no_grad()
def load_reference_state(
    network: Supernet | StackedNetwork, state: Mapping[str, Tensor], naming: Naming = "darts"
) -> None:
    """Take over a state dict that a published implementation saved; nothing is taken over if it does not fit.

    A leading "module." (of torch's DataParallel) is dropped. Counters of batches are passed over: no network here
    has a momentum that depends on them. Alphas are taken where they are.

    Raises:
        LbgnasError: names the first tensor that is missing, unknown, or of another shape.

    Example:
        >>> from lbgnas.space import load_space
        >>> one, two = (Supernet(load_space("darts"), 3, 4, 10) for _ in range(2))
        >>> load_reference_state(two, reference_state(one))
    """
    _check_naming(naming)
    given = {name.removeprefix("module."): value for name, value in state.items()}
    given = {name: value for name, value in given.items() if not name.endswith(COUNTER)}
    wanted = dict(reference_tensors(network, naming))
    if isinstance(network, Supernet):
        alphas = network.architecture_parameters()
        wanted |= {name: value for name, value in alphas.items() if name in given}
    for name, view in wanted.items():
        if name not in given:
            raise LbgnasError(f"state dict: {name} is missing; is it of another network, or of other cells?")
        if given[name].shape != view.shape:
            shapes = f"{tuple(given[name].shape)}, here it is {tuple(view.shape)}"
            raise LbgnasError(f"state dict: {name} is of shape {shapes}")
    for name in given:
        if name not in wanted:
            raise unknown("tensor", name, wanted, "state dict")
    for name, view in wanted.items():
        view.copy_(given[name])


def _check_naming(naming: str) -> None:
    if naming not in EDGES:
        raise unknown("naming", naming, EDGES)


def _norm(name: str, module: nn.Module) -> Named:
    assert isinstance(module, nn.BatchNorm2d)
    if module.affine:
        yield f"{name}.weight", module.weight
        yield f"{name}.bias", module.bias
    assert module.running_mean is not None
    assert module.running_var is not None
    yield f"{name}.running_mean", module.running_mean
    yield f"{name}.running_var", module.running_var


def _reduce(name: str, module: FactorizedReduce) -> Named:
    yield f"{name}.conv_1.weight", module.conv_1.weight
    yield f"{name}.conv_2.weight", module.conv_2.weight
    yield from _norm(f"{name}.bn", module.norm)


def _numbered(name: str, module: nn.Module) -> Named:
    """Yield a module's tensors by their own names."""
    counted = {key for key, _ in module.named_buffers() if key.endswith(COUNTER)}
    for key, value in (*module.named_parameters(), *module.named_buffers()):
        if key not in counted:
            yield f"{name}.{key}", value


def _preprocess(name: str, module: nn.Module) -> Named:
    if isinstance(module, FactorizedReduce):
        yield from _reduce(name, module)
    else:
        yield from _numbered(f"{name}.op", module)


def _operation(name: str, module: nn.Module) -> Named:
    if isinstance(module, FactorizedReduce):
        yield from _reduce(name, module)
        return
    # Separable and dilated convolutions are a sequence named op inside a class of their own.
    depthwise = isinstance(module, nn.Sequential) and len(module) in (4, 8) and _is_depthwise(module[1])
    yield from _numbered(f"{name}.op" if depthwise else name, module)


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels


def _stem(module: nn.Module) -> Named:
    if isinstance(module, CifarStem):
        yield "stem.0.weight", module.conv.weight
        yield from _norm("stem.1", module.norm)
        return
    assert isinstance(module, ImageNetStem)
    yield "stem0.0.weight", module.conv_1.weight
    yield from _norm("stem0.1", module.norm_1)
    yield "stem0.3.weight", module.conv_2.weight
    yield from _norm("stem0.4", module.norm_2)
    yield "stem1.1.weight", module.conv_3.weight
    yield from _norm("stem1.2", module.norm_3)


def _auxiliary_head(head: AuxiliaryHead) -> Named:
    yield "auxiliary_head.features.2.weight", head.conv_1.weight
    yield from _norm("auxiliary_head.features.3", head.norm_1)
    yield "auxiliary_head.features.5.weight", head.conv_2.weight
    if isinstance(head.norm_2, nn.BatchNorm2d):
        yield from _norm("auxiliary_head.features.6", head.norm_2)
    yield "auxiliary_head.classifier.weight", head.classifier.weight
    yield "auxiliary_head.classifier.bias", head.classifier.bias


def _source_edges(edges: SourceEdges, prefixes: list[str]) -> Named:
    channels = edges.channels

    def block(name: str, index: int, width: int = channels) -> Tensor:
        tensor: Tensor = getattr(edges, name)
        return tensor[index * width : (index + 1) * width]

    def statistics(name: str, kind: str, index: int) -> Named:
        yield f"{name}.running_mean", block(f"mean_{kind}", index)
        yield f"{name}.running_var", block(f"var_{kind}", index)

    stacked = {"first": 0, "second": 0}
    for name in edges.convolutions:
        for index, (edge, column) in enumerate(edges.places[name]):
            for stage, kind in enumerate(("first", "second")[: CONVOLUTIONS[name].stages]):
                op, place = f"{prefixes[edge]}.{column}.op", stacked[kind]
                yield f"{op}.{4 * stage + 1}.weight", block(f"{name}_depthwise_{kind}", index)
                yield f"{op}.{4 * stage + 2}.weight", getattr(edges, f"pointwise_{kind}")[place][:, :, None, None]
                yield from statistics(f"{op}.{4 * stage + 3}", kind, place)
                stacked[kind] += 1
    for name in edges.pools:
        for index, (edge, column) in enumerate(edges.places[name]):
            yield from statistics(f"{prefixes[edge]}.{column}.1", name, index)
    for name in edges.skips:
        kind = SKIPS[name]
        for index, (edge, column) in enumerate(edges.places[name]):
            beside = f"{prefixes[edge].removesuffix('._ops')}.auxiliary_op"
            op = beside if kind == "auxiliary" else f"{prefixes[edge]}.{column}"
            if edges.stride == 2:
                yield f"{op}.conv_1.weight", block(f"{kind}_even", index, channels // 2)
                yield f"{op}.conv_2.weight", block(f"{kind}_odd", index, channels // 2)
                yield from statistics(f"{op}.bn", kind, index)
            elif name == "auxiliary_conv":
                yield f"{op}.weight", edges.auxiliary_pointwise[index][:, :, None, None]
    for name in edges.single:
        modules = cast(nn.ModuleList, edges.modules_of[name])
        for module, (edge, column) in zip(modules, edges.places[name], strict=True):
            yield from _numbered(f"{prefixes[edge]}.{column}", module)
