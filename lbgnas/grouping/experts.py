"""K torch modules as experts: pure calls with given weights and architecture."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lbgnas.batch_statistics import BatchStatistics
from lbgnas.errors import LbgnasError
from lbgnas.grouping.sgd import Tensors
from lbgnas.precision import exact
from lbgnas.ranks import ALONE, Ranks


def architecture_slopes(
    index: int, architecture: Tensors, found: Iterable[Tensor | None], required: bool = True
) -> Tensors:
    """Return what was found by name, zeros where a parameter has no part.

    Raises:
        LbgnasError: if a parameter that is to be learned got no gradient.
    """
    result = {}
    for (name, value), slope in zip(architecture.items(), found, strict=False):
        if slope is None and required:
            raise LbgnasError(f"experts[{index}].{name} got no gradient from the validation loss")
        result[name] = torch.zeros_like(value) if slope is None else slope
    return result


class Experts:
    """K modules of any kind, each mapping images to logits.

    Args:
        modules: the experts, K of them.
        architecture: names of the parameters that make up A_k, learned by stage III; all others are S_k.
        features: name of the submodule whose input is the embedding phi(x; S_k); by default each expert's last
            `nn.Linear`.
        ranks: the processes that share the experts; the weights of another one's are here, but not up to date.
        compute: the type that calls turn weights and images to, torch.bfloat16 to halve the memory; logits, features
            and gradients come back in float32. For supernets. None: everything in its own type.

    Attributes:
        seed: from which every call draws its random numbers (dropout, noise): with the same seed, all passes of an
            iteration compute the same function, and derivatives are those of the step. None: torch's own state.

    Raises:
        LbgnasError: for no expert, and for a name that one of them does not have.

    Example:
        >>> experts = Experts([nn.Linear(3, 2) for _ in range(2)])
        >>> experts.call(0, experts.weights(0), {}, torch.ones(4, 3))[0].shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        architecture: Iterable[str] = (),
        features: str | None = None,
        ranks: Ranks = ALONE,
        compute: torch.dtype | None = None,
    ) -> None:
        self.ranks = ranks
        self.compute = compute
        self.modules = list(modules)
        self.names = tuple(architecture)
        self.seed: int | None = None
        if not self.modules:
            raise LbgnasError("experts: none given, at least 1 is needed")
        self.features: list[str | None] = []
        for index, module in enumerate(self.modules):
            parts = dict(module.named_modules())
            linear = [name for name, part in parts.items() if isinstance(part, nn.Linear)]
            self.features.append(features if features is not None else (linear[-1] if linear else None))
            if features is not None:
                _check_name(index, "submodule", features, parts)
            known = dict(module.named_parameters())
            for name in self.names:
                _check_name(index, "parameter", name, known)

    def __len__(self) -> int:
        return len(self.modules)

    def at_work(self, own: Sequence[Tensor]) -> list[tuple[int, Tensor]]:
        """Return k and its rows of each expert of this process that has any, given the rows of every expert."""
        return [(index, rows) for index, rows in enumerate(own) if len(rows) and self.ranks.owns(index)]

    def weights(self, index: int) -> Tensors:
        """Return S_k by name: the parameters themselves, detached."""
        named = self.modules[index].named_parameters()
        return {name: value.detach() for name, value in named if name not in self.names}

    def architecture(self, index: int) -> Tensors:
        """Return A_k by name: the parameters themselves, detached."""
        named = dict(self.modules[index].named_parameters())
        return {name: named[name].detach() for name in self.names}

    @torch.no_grad()
    def load(self, index: int, weights: Tensors) -> None:
        """Write S_k back into the module."""
        named = dict(self.modules[index].named_parameters())
        torch._foreach_copy_([named[name] for name in weights], list(weights.values()))

    def call(
        self,
        index: int,
        weights: Tensors,
        architecture: Tensors,
        x: Tensor,
        statistics: BatchStatistics | None = None,
        want_features: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return expert k's logits, (batch, classes), and its features, (batch, width) (else an empty tensor).

        Args:
            index: k.
            weights: S_k.
            architecture: A_k.
            x: (batch, ...).
            statistics: the policy for normalisations in this pass.
            want_features: whether to catch the embedding.

        Raises:
            LbgnasError: if the embedding is wanted and it is not known which one, or the pass does not come by it.
        """
        module = self.modules[index]
        caught: list[Tensor] = []
        handle: AbstractContextManager[object] = nullcontext()
        if want_features:
            name = self.features[index]
            if name is None:
                raise LbgnasError(f"experts[{index}]: name the submodule whose input is the embedding (features=...)")

            def catch(_: nn.Module, args: tuple[Tensor, ...]) -> None:
                caught.extend(value.flatten(1) for value in args[:1])

            handle = module.get_submodule(name).register_forward_pre_hook(catch)
        draws = nullcontext() if self.seed is None else seeded(self.seed, x.device)
        with handle, statistics or nullcontext(), draws:
            if self.compute is not None:
                weights = {name: value.to(self.compute) for name, value in weights.items()}
                x = x.to(self.compute)
            logits: Tensor = functional_call(module, {**weights, **architecture}, (x,))
        if want_features and not caught:
            raise LbgnasError(
                f"experts[{index}]: no input reached {self.features[index]!r}; name another (features=...)"
            )
        return exact(logits), exact(caught[0]) if caught else x.new_empty(0)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from `seed` inside the context, and as if nothing had been drawn after it."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def _check_name(index: int, kind: str, name: str, known: Iterable[str]) -> None:
    names = list(known)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
        hint = f"; the nearest is {close[0]!r}" if close else ""
        raise LbgnasError(f"experts[{index}]: has no {kind} named {name!r}{hint}")
