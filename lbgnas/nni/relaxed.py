"""NNI's cells and layer choices as weighted sums, in the forms of our bases.

Where no base asks for more, they compute what NNI's own relaxation computes; an architecture is read off as our bases
do it: by softmax(alpha), where NNI compares the alphas of different edges themselves.
"""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lbgnas.bases.derivation import EDGES_PER_NODE, SKIP, limited, softmax
from lbgnas.errors import LbgnasError
from lbgnas.genotype import Pairs
from lbgnas.nni.host import (
    DifferentiableMixedCell,
    DifferentiableMixedLayer,
    LayerChoice,
    ParametrizedModule,
    PathSamplingCell,
    preprocess_cell_inputs,
)
from lbgnas.tangents import linear

NOTHING = "none"
"""The candidate that NNI adds to every edge of a cell: the edge is not there."""

Names = tuple[Any, ...]
Read = Callable[[tuple[tuple[str, ...], ...], "np.ndarray[Any, np.dtype[np.floating[Any]]]"], Pairs]


@dataclass(frozen=True)
class Form:
    """What a base makes of a space.

    Attributes:
        partial: one in so many channels passes the candidates (PC-DARTS); 1 for all.
        auxiliary: whether a skip stands beside every edge (DARTS-).
        read: strengths of a cell's edges to its edges, two for each node.
        max_skips: skip connections that a normal cell may have.
        kept: candidates that edges and choices have left, by label; all where it is not named (P-DARTS).
    """

    partial: int
    auxiliary: bool
    read: Read
    max_skips: int | None = None
    kept: Mapping[str, Names] = field(default_factory=dict)


class Relaxed(ABC):
    """What relaxed cells and choices share."""

    auxiliary_weight = 0.0
    skip_dropout = 0.0

    @abstractmethod
    def mixed(self) -> dict[str, tuple[nn.Parameter, Names, Mapping[Any, nn.Module]]]:
        """Return alpha, the names of its candidates and their modules, by label of the edge or choice."""

    def _skipped(self, module: nn.Module, x: Any) -> Any:
        output = module(x)
        if self.skip_dropout and isinstance(module, nn.Identity) and module.training:
            return F.dropout(output, self.skip_dropout)
        return output


class RelaxedCell(Relaxed, DifferentiableMixedCell):
    """A cell in which every edge is a weighted sum of its candidates."""

    def __init__(
        self,
        op_factory: Any,
        num_nodes: int,
        num_ops_per_node: int,
        num_predecessors: int,
        preprocessor: Any,
        postprocessor: Any,
        concat_dim: int,
        memo: dict[str, Any],
        mutate_kwargs: dict[str, Any],
        label: str,
    ) -> None:
        form: Form = mutate_kwargs["form"]
        factory, width = _narrowed(op_factory, form.partial, label)
        # Past NNI's relaxed cell, which would make alphas for all candidates.
        PathSamplingCell.__init__(
            self,
            factory,
            num_nodes,
            num_ops_per_node,
            num_predecessors,
            preprocessor,
            postprocessor,
            concat_dim,
            memo,
            mutate_kwargs,
            label,
        )
        self.form = form
        self.width = width
        self.auxiliary = nn.ModuleList() if form.auxiliary else None
        self._softmax = mutate_kwargs.get("softmax", nn.Softmax(-1))
        self._arch_alpha = nn.ParameterDict()
        self._arch_beta = nn.ParameterDict()
        for node, sources in enumerate(self.ops, start=num_predecessors):
            if form.partial > 1:
                self._arch_beta[f"{label}/{node}"] = _shared(memo, f"{label}/{node}/beta", len(sources))
            for source, ops in enumerate(sources):
                edge = f"{label}/{node}_{source}"
                if self.auxiliary is not None:
                    self.auxiliary.append(_skip_like(ops, f"the cell {label!r}"))
                names = self.names(edge)
                for name in set(ops) - set(names):
                    del ops[name]
                self._arch_alpha[edge] = _shared(memo, f"{edge}/in_cell", len(names))

    def names(self, edge: str) -> tuple[str, ...]:
        """Return the candidates of an edge, named label/node_source."""
        return tuple(self.form.kept.get(edge, (*self.op_names, NOTHING)))

    def mixed(self) -> dict[str, tuple[nn.Parameter, Names, Mapping[Any, nn.Module]]]:
        """Return alpha, candidates and modules of every edge."""
        first = self.num_predecessors
        return {
            f"{self.label}/{node}_{source}": (
                self._arch_alpha[f"{self.label}/{node}_{source}"],
                self.names(f"{self.label}/{node}_{source}"),
                ops,
            )
            for node, sources in enumerate(self.ops, start=first)
            for source, ops in enumerate(sources)
        }

    def forward(self, *inputs: Any) -> Any:
        """Return what NNI's cell returns: all nodes joined, after the postprocessor."""
        processed = preprocess_cell_inputs(self.num_predecessors, *inputs)
        states = list(self.preprocessor(processed))
        row = 0
        for node, sources in enumerate(self.ops, start=self.num_predecessors):
            total: Tensor | None = None
            shares = self._softmax(self._arch_beta[f"{self.label}/{node}"]) if self.form.partial > 1 else None
            for source, ops in enumerate(sources):
                output = self._edge(f"{self.label}/{node}_{source}", ops, states[source])
                if shares is not None:
                    output = weighted_sum([output], [shares[source]])
                if self.auxiliary is not None and self.auxiliary_weight:
                    output = output + self.auxiliary_weight * self.auxiliary[row](states[source])
                total = output if total is None else total + output
                row += 1
            states.append(total)
        return self.postprocessor(torch.cat(states[self.num_predecessors :], self.concat_dim), processed)

    def _edge(self, edge: str, ops: Mapping[str, nn.Module], state: Tensor) -> Tensor:
        weights = dict(zip(self.names(edge), self._softmax(self._arch_alpha[edge]), strict=True))
        own = state if self.width is None else state[:, : self.width]
        output = weighted_sum([self._skipped(op, own) for op in ops.values()], [weights[name] for name in ops])
        if self.width is None:
            return output
        rest = state[:, self.width :]
        if rest.shape[2:] != output.shape[2:]:
            rest = F.max_pool2d(rest, 2, 2)
        joined = torch.cat([output, rest], 1)
        batch, channels, height, width = joined.shape
        groups = joined.reshape(batch, self.form.partial, channels // self.form.partial, height, width)
        return groups.transpose(1, 2).reshape(batch, channels, height, width)

    def arch_parameters(self) -> Any:
        """Return alphas and betas."""
        yield from self._arch_alpha.values()
        yield from self._arch_beta.values()

    def export_probs(self, memo: Any) -> dict[str, Any]:
        """Return softmax(alpha) by candidate, for every edge."""
        return {
            edge: dict(zip(names, self._softmax(alpha).tolist(), strict=True))
            for edge, (alpha, names, _) in self.mixed().items()
            if edge not in memo
        }

    @torch.no_grad()
    def export(self, memo: Any) -> dict[str, Any]:
        """Return the two strongest edges of every node with their strongest operations, in NNI's form."""
        if f"{self.label}/op_{self.num_predecessors}_0" in memo:
            return {}
        rows = list(self.mixed().values())
        operations = tuple(tuple(str(name) for name in names) for _, names, _ in rows)
        found = np.zeros((len(rows), max(map(len, operations))))
        for row, (alpha, names, _) in enumerate(rows):
            found[row, : len(names)] = softmax(alpha.detach().double().cpu().numpy())
        if self.form.partial > 1:
            shares = [softmax(beta.detach().double().cpu().numpy()) for beta in self._arch_beta.values()]
            found = found * np.concatenate(shares)[:, None]
        most = self.form.max_skips if self.label.split("/")[-1] == "normal" else None
        pairs = limited(operations, found, lambda values: self.form.read(operations, values), most)
        exported: dict[str, Any] = {}
        for position, (name, source) in enumerate(pairs):
            node, place = self.num_predecessors + position // EDGES_PER_NODE, position % EDGES_PER_NODE
            exported[f"{self.label}/op_{node}_{place}"] = name
            exported[f"{self.label}/input_{node}_{place}"] = [source]
        return exported

    @classmethod
    def relax(cls, form: Form, module: nn.Module, name: str, memo: dict[str, Any], kwargs: dict[str, Any]) -> Any:
        """Return the cell for one of NNI's with two inputs and two operations a node, as a mutation hook does."""
        usual = getattr(module, "num_predecessors", 2) == getattr(module, "num_ops_per_node", 2) == EDGES_PER_NODE
        own = cls if usual else DifferentiableMixedCell
        relaxed = own.mutate(module, name, memo, {**kwargs, "form": form})
        if relaxed is not None and not usual and (form.partial > 1 or form.auxiliary or form.kept):
            raise LbgnasError(f"LBG: the cell {name!r} has not two inputs and two operations a node; use base darts")
        return relaxed


class RelaxedLayer(Relaxed, DifferentiableMixedLayer):
    """A layer choice as the weighted sum of its candidates."""

    def __init__(self, paths: Any, alpha: nn.Parameter, softmax: nn.Module, label: str, form: Form) -> None:
        LayerChoice.__init__(self, paths, label=label)
        self._arch_alpha = alpha
        self._softmax = softmax
        self.form = form
        self.left: Names = form.kept.get(label, tuple(self.names))
        modules = {name: self[name] for name in self.names}
        self.auxiliary = _skip_like(modules, f"the choice {label!r}") if form.auxiliary else None
        for name in set(self.names) - set(self.left):
            del self._modules[str(name)]

    def mixed(self) -> dict[str, tuple[nn.Parameter, Names, Mapping[Any, nn.Module]]]:
        """Return alpha, candidates and modules of the choice."""
        return {self.label: (self._arch_alpha, self.left, {name: self[name] for name in self.left})}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Take the arguments of the candidates."""
        outputs = [
            self._skipped(self[name], *args) if not kwargs and len(args) == 1 else self[name](*args, **kwargs)
            for name in self.left
        ]
        weights = self._softmax(self._arch_alpha)
        plain = all(isinstance(output, Tensor) for output in outputs)
        output = weighted_sum(outputs, weights) if plain else self._reduction(outputs, weights)
        if self.auxiliary is not None and self.auxiliary_weight:
            output = output + self.auxiliary_weight * self.auxiliary(*args, **kwargs)
        return output

    def export(self, memo: Any) -> dict[str, Any]:
        """Return the strongest candidate."""
        return {} if self.label in memo else {self.label: self.left[int(self._arch_alpha.argmax())]}

    def export_probs(self, memo: Any) -> dict[str, Any]:
        """Return softmax(alpha) by candidate."""
        if self.label in memo:
            return {}
        return {self.label: dict(zip(self.left, self._softmax(self._arch_alpha).tolist(), strict=True))}

    @classmethod
    def relax(cls, form: Form, module: Any, name: str, memo: dict[str, Any], kwargs: dict[str, Any]) -> Any:
        """Return the relaxed choice for one of NNI's, as a mutation hook does."""
        if type(module) is not LayerChoice:
            return None
        if form.partial > 1:
            raise LbgnasError(
                f"LBG: base pcdarts needs cells whose operations are built for a number of channels; the choice "
                f"{module.label!r} has ready layers; use base darts, darts- or pdarts"
            )
        alpha = memo[module.label]
        if module.label in form.kept:
            alpha = _shared(memo, f"{module.label}/kept", len(form.kept[module.label]))
        return cls(module.candidates, alpha, kwargs.get("softmax", nn.Softmax(-1)), module.label, form)


def weighted_sum(outputs: Sequence[Tensor], weights: Sequence[Tensor] | Tensor) -> Tensor:
    """Return sum_k weights[k] * outputs[k]; weights are numbers without a tangent."""

    def weighted(output: Tensor, weight: Tensor) -> Tensor:
        return linear(lambda value: value * weight.to(value.dtype), output)

    return functools.reduce(torch.add, map(weighted, outputs, weights))


def leave_fixed(module: nn.Module, name: str, memo: dict[str, Any], kwargs: dict[str, Any]) -> bool:
    """Return whether a layer has nothing to choose, as a mutation hook: NNI would slice its weights in every pass."""
    return isinstance(module, ParametrizedModule) and not list(module.children()) and not module.simplify()


def _shared(memo: dict[str, Any], key: str, size: int) -> nn.Parameter:
    """Return the parameter of all modules with that key, made by the first of them."""
    if key not in memo:
        memo[key] = nn.Parameter(1e-3 * torch.randn(size))
    found: nn.Parameter = memo[key]
    if len(found) != size:
        raise LbgnasError(f"LBG: {key!r} names choices of {len(found)} and of {size} candidates")
    return found


def _skip_like(candidates: Mapping[Any, nn.Module], where: str) -> nn.Module:
    """Return a skip of its own, like the one among the candidates."""
    for name, module in candidates.items():
        if name == SKIP or isinstance(module, nn.Identity):
            return copy.deepcopy(module)
    raise LbgnasError(
        f"LBG: base darts- stands a skip beside every edge, and {where} has no candidate named {SKIP!r} and no "
        f"nn.Identity to tell how it is made; use base darts"
    )


def _narrowed(factory: Any, partial: int, label: str) -> tuple[Any, int | None]:
    """Return factories for cells in which one in `partial` channels passes the candidates, and how many those are."""
    if partial == 1:
        return factory, None
    factories: Sequence[Any] = list(factory.values()) if isinstance(factory, Mapping) else list(factory)
    known = [own.keywords.get("channels") if isinstance(own, functools.partial) else None for own in factories]
    channels = known[0]
    if type(channels) is not int or any(type(count) is not int or count != channels for count in known):
        raise LbgnasError(
            f"LBG: base pcdarts needs cells whose operations are built for one fixed number of channels "
            f"(functools.partial(..., channels=C), as in NNI's hub with a fixed width); the cell {label!r} has others"
        )
    if channels % (2 * partial):
        near = max(2 * partial, round(channels / (2 * partial)) * 2 * partial)
        raise LbgnasError(
            f"LBG: base pcdarts needs a width that is a multiple of {2 * partial}; the cell {label!r} has {channels} "
            f"channels, the nearest is {near}"
        )
    width = channels // partial

    def narrow(own: Callable[..., Any]) -> Callable[..., Any]:
        return functools.partial(own, channels=width)

    if isinstance(factory, Mapping):
        return {name: narrow(own) for name, own in factory.items()}, width
    return [narrow(own) for own in factory], width
