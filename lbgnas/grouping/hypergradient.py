"""How the second-order term of a hypergradient is taken; the way is a value that is passed.

Each takes a scalar loss L(S, A, p), a direction u over S, and returns the gradient of <u, grad_S L> with respect to A
and p.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from lbgnas.errors import LbgnasError
from lbgnas.grouping.sgd import Tensors, norm

with warnings.catch_warnings():
    # Torch loads its forward-mode formulas through torch.jit.script, of which it warns itself.
    warnings.simplefilter("ignore")
    with forward_ad.dual_level():
        forward_ad.make_dual(torch.zeros(()), torch.zeros(()))

Loss = Callable[[Tensors, bool], Tensor]
"""L as a function of S; the flag asks for normalisations composed of plain operations."""

Gate = Callable[[Tensors], Tensor]
"""log f(x_n) at j_n for every sample, (batch,), as a function of T."""


class Hypergradient(Protocol):
    """A way to take second-order terms."""

    def mixed(self, loss: Loss, weights: Tensors, direction: Tensors, wanted: list[Tensor]) -> list[Tensor] | None:
        """Return d<direction, grad_S loss>/d(wanted), or None for a way that leaves the term out."""
        ...

    def directional(self, gate: Gate, weights: Tensors, direction: Tensors) -> Tensor:
        """Return <grad_T gate_n, direction> for every sample, (batch,)."""
        ...


def _gradients(output: Tensor, wanted: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(output, wanted, allow_unused=True, materialize_grads=True))


@dataclass(frozen=True)
class Exact:
    """Exact derivatives of the unrolled step.

    mode "forward": one forward-mode pass with tangent `direction`, then one backward; for modules made of convolutions,
    pools, activations and normalisations. mode "reverse": a backward through the backward; for every twice
    differentiable module, with more memory.
    """

    mode: Literal["forward", "reverse"] = "forward"

    def mixed(self, loss: Loss, weights: Tensors, direction: Tensors, wanted: list[Tensor]) -> list[Tensor]:
        """Return d<direction, grad_S loss>/d(wanted).

        Raises:
            LbgnasError: if a module cannot be differentiated in this mode.
        """
        if self.mode == "reverse":
            leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
            first = torch.autograd.grad(
                loss(leaves, False),
                list(leaves.values()),
                create_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            return _gradients(sum_of_products(first, list(direction.values())), wanted)
        try:
            with forward_ad.dual_level():
                duals = {name: forward_ad.make_dual(weights[name], direction[name]) for name in weights}
                tangent = forward_ad.unpack_dual(loss(duals, True)).tangent
            # Outside the level: inside it, the backward would carry tangents of its own.
            return _gradients(tangent, wanted)
        except (NotImplementedError, RuntimeError) as error:
            if "forward AD" not in str(error) and "inplace" not in str(error):
                raise
            raise LbgnasError(
                "the experts hold an operation without forward-mode second derivatives "
                f"({str(error).splitlines()[0][:160]}); use Exact(mode='reverse')"
            ) from error

    def directional(self, gate: Gate, weights: Tensors, direction: Tensors) -> Tensor:
        """Return <grad_T gate_n, direction>, by one forward-mode pass of the gate."""
        with torch.no_grad(), forward_ad.dual_level():
            duals = {name: forward_ad.make_dual(weights[name], direction[name]) for name in weights}
            return forward_ad.unpack_dual(gate(duals)).tangent


@dataclass(frozen=True)
class FiniteDifference:
    """Central differences with step radius / |direction|, as the DARTS implementations take them.

    ReLU and max pooling have kinks inside any useful radius: the result differs from the exact one by tens of percent.
    """

    radius: float = 0.01

    def mixed(self, loss: Loss, weights: Tensors, direction: Tensors, wanted: list[Tensor]) -> list[Tensor]:
        """Return [d loss(S + h u) - d loss(S - h u)] / 2h with respect to `wanted`."""
        step = self.radius / norm(direction)
        ahead = _gradients(loss(_moved(weights, direction, step), False), wanted)
        behind = _gradients(loss(_moved(weights, direction, -step), False), wanted)
        return [(plus - minus) / (2 * step) for plus, minus in zip(ahead, behind, strict=True)]

    def directional(self, gate: Gate, weights: Tensors, direction: Tensors) -> Tensor:
        """Return [gate(T + h u) - gate(T - h u)] / 2h."""
        with torch.no_grad():
            step = self.radius / norm(direction)
            ahead, behind = (gate(_moved(weights, direction, sign * step)) for sign in (1, -1))
            return (ahead - behind) / (2 * step)


@dataclass(frozen=True)
class FirstOrder(Exact):
    """Leave out how S' depends on A and on the gate; the gate's own dependence on Z stays exact."""

    def mixed(self, loss: Loss, weights: Tensors, direction: Tensors, wanted: list[Tensor]) -> None:  # type: ignore[override]
        """Return None: no second-order term."""
        return None


def _moved(weights: Tensors, direction: Tensors, step: Tensor) -> Tensors:
    return {name: value + step * direction[name] for name, value in weights.items()}


def sum_of_products(left: tuple[Tensor, ...], right: list[Tensor]) -> Tensor:
    """Return the inner product of two lists of tensors."""
    return torch.stack([(a * b).sum() for a, b in zip(left, right, strict=True)]).sum()
