"""How the second-order term of a hypergradient is taken; the way is a value that is passed.

Each takes a scalar loss L(S, A, p), a direction u over S, and returns the gradient of <u, grad_S L> with respect to A
and p.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    make_dual: Callable[[Tensor, Tensor], Tensor] = forward_ad.make_dual
    unpack_dual: Callable[[Tensor], forward_ad.UnpackedDualTensor] = forward_ad.unpack_dual
    with forward_ad.dual_level():
        make_dual(torch.zeros(()), torch.zeros(()))

Loss = Callable[[Tensors, bool], Tensor]
"""L as a function of S; the flag asks for normalisations composed of plain operations."""

Gate = Callable[[Tensors], Tensor]
"""log f(x_n) at j_n for every sample, (batch,), as a function of T."""

Mode = Literal["forward", "reverse"]


class Hypergradient(Protocol):
    """A way to take second-order terms."""

    def mixed(self, loss: Loss, weights: Tensors, direction: Tensors, wanted: list[Tensor]) -> list[Tensor] | None:
        """Return d<direction, grad_S loss>/d(wanted), or None for a way that leaves the term out."""
        ...

    def directional(self, gate: Gate, weights: Tensors, direction: Tensors) -> Tensor:
        """Return <grad_T gate_n, direction> for every sample, (batch,)."""
        ...


@dataclass(frozen=True)
class Exact:
    """Exact derivatives of the unrolled step, where every pass computes the same function.

    Dropout and other draws inside a module differ from pass to pass; the derivatives are then those of other draws
    than the step's.

    mode "forward": one forward-mode pass with tangent `direction`, then one backward; for modules made of convolutions,
    pools, activations and normalisations. mode "reverse": a backward through the backward; for every twice
    differentiable module, with more memory.
    """

    mode: Mode = "forward"

    def mixed(self, loss: Loss, weights: Tensors, direction: Tensors, wanted: list[Tensor]) -> list[Tensor]:
        """Return d<direction, grad_S loss>/d(wanted).

        Raises:
            LbgnasError: if a module cannot be differentiated in this mode.
        """
        if self.mode == "reverse":
            with _explained("the experts hold", self.mode, "Exact"):
                leaves = _leaves(weights)
                first = _gradients(loss(leaves, False), list(leaves.values()), create_graph=True)
                return _gradients(sum_of_products(first, [direction[name] for name in weights]), wanted)
        with _explained("the experts hold", self.mode, "Exact"):
            with forward_ad.dual_level():
                slope = _tangent(loss(_duals(weights, direction), True))
            # Outside the level: inside it, the backward would carry tangents of its own.
            return _gradients(slope, wanted)

    def directional(self, gate: Gate, weights: Tensors, direction: Tensors) -> Tensor:
        """Return <grad_T gate_n, direction>, by one forward-mode pass of the gate or by two backwards.

        Raises:
            LbgnasError: if the gate cannot be differentiated in this mode.
        """
        return _directional(gate, weights, direction, self.mode, "Exact")


@dataclass(frozen=True)
class FiniteDifference:
    """Central differences with step radius / |direction|, as the DARTS implementations take them.

    ReLU and max pooling have kinks inside any useful radius: the result differs from the exact one by tens of percent.
    """

    radius: float = 0.01

    def mixed(self, loss: Loss, weights: Tensors, direction: Tensors, wanted: list[Tensor]) -> list[Tensor]:
        """Return [d loss(S + h u) - d loss(S - h u)] / 2h with respect to `wanted`; zeros for u = 0."""
        step = self._step(direction)
        ahead = _gradients(loss(_moved(weights, direction, step), False), wanted)
        behind = _gradients(loss(_moved(weights, direction, -step), False), wanted)
        return [(plus - minus) / (2 * step) for plus, minus in zip(ahead, behind, strict=True)]

    def directional(self, gate: Gate, weights: Tensors, direction: Tensors) -> Tensor:
        """Return [gate(T + h u) - gate(T - h u)] / 2h; zeros for u = 0."""
        with torch.no_grad():
            step = self._step(direction)
            ahead, behind = (gate(_moved(weights, direction, sign * step)) for sign in (1, -1))
            return (ahead - behind) / (2 * step)

    def _step(self, direction: Tensors) -> Tensor:
        size = norm(direction)
        # Squares below this underflow: a direction that looks like zero must not be blown up.
        return self.radius / size.clamp_min(torch.finfo(size.dtype).tiny ** 0.5)


@dataclass(frozen=True)
class FirstOrder:
    """Leave out how S' depends on A and on the gate; the gate's own dependence on Z stays exact, by `mode`."""

    mode: Mode = "forward"

    def mixed(self, loss: Loss, weights: Tensors, direction: Tensors, wanted: list[Tensor]) -> None:
        """Return None: no second-order term."""
        return None

    def directional(self, gate: Gate, weights: Tensors, direction: Tensors) -> Tensor:
        """Return <grad_T gate_n, direction>, by one forward-mode pass of the gate or by two backwards.

        Raises:
            LbgnasError: if the gate cannot be differentiated in this mode.
        """
        return _directional(gate, weights, direction, self.mode, "FirstOrder")


def sum_of_products(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Return the inner product of two lists of tensors."""
    return torch.stack([(a * b).sum() for a, b in zip(left, right, strict=True)]).sum()


def _directional(gate: Gate, weights: Tensors, direction: Tensors, mode: Mode, way: str) -> Tensor:
    if mode == "reverse":
        with _explained("the gate holds", mode, way):
            leaves = _leaves(weights)
            output = gate(leaves)
            # The pulled-back cotangent is linear in it: its gradient is the derivative along the direction.
            cotangent = torch.zeros_like(output).requires_grad_()
            pulled = _gradients((output * cotangent).sum(), list(leaves.values()), create_graph=True)
            return _gradients(sum_of_products(pulled, [direction[name] for name in weights]), [cotangent])[0]
    with _explained("the gate holds", mode, way), torch.no_grad(), forward_ad.dual_level():
        return _tangent(gate(_duals(weights, direction)))


@contextmanager
def _explained(who: str, mode: Mode, way: str) -> Iterator[None]:
    """Turn torch's errors about derivatives it does not have into one sentence."""
    try:
        yield
    except RuntimeError as error:
        told = any(words in str(error) for words in ("forward AD", "inplace", "derivative for"))
        if not told and not isinstance(error, NotImplementedError):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        other = f"{way}(mode='reverse')" if mode == "forward" else "FiniteDifference()"
        raise LbgnasError(
            f"{who} an operation without the derivatives that mode {mode!r} needs ({reason}); use {other}"
        ) from error


def _duals(weights: Tensors, direction: Tensors) -> Tensors:
    return {name: make_dual(value, direction[name]) for name, value in weights.items()}


def _tangent(output: Tensor) -> Tensor:
    tangent: Tensor | None = unpack_dual(output).tangent
    return torch.zeros_like(output) if tangent is None else tangent


def _leaves(weights: Tensors) -> Tensors:
    return {name: value.detach().requires_grad_() for name, value in weights.items()}


def _gradients(output: Tensor, wanted: list[Tensor], create_graph: bool = False) -> list[Tensor]:
    if not wanted or not output.requires_grad:
        return [torch.zeros_like(value) for value in wanted]
    return list(
        torch.autograd.grad(output, wanted, create_graph=create_graph, allow_unused=True, materialize_grads=True)
    )


def _moved(weights: Tensors, direction: Tensors, step: Tensor) -> Tensors:
    return {name: value + step * direction[name] for name, value in weights.items()}
