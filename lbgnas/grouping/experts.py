"""K torch modules as experts: pure calls with given weights and architecture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lbgnas.batch_statistics import BatchStatistics
from lbgnas.errors import LbgnasError
from lbgnas.grouping.sgd import Tensors


class Experts:
    """K modules of any kind, each mapping images to logits.

    Args:
        modules: the experts, K of them.
        architecture: names of the parameters that make up A_k, learned by stage III; all others are S_k.
        features: name of the submodule whose input is the embedding phi(x; S_k); by default the last `nn.Linear`.

    Example:
        >>> experts = Experts([nn.Linear(3, 2) for _ in range(2)])
        >>> experts.call(0, experts.weights(0), {}, torch.ones(4, 3))[0].shape
        torch.Size([4, 2])
    """

    def __init__(
        self, modules: Sequence[nn.Module], architecture: Iterable[str] = (), features: str | None = None
    ) -> None:
        self.modules = list(modules)
        self.names = tuple(architecture)
        if not self.modules:
            raise LbgnasError("experts: none given, at least 1 is needed")
        linear = [name for name, module in self.modules[0].named_modules() if isinstance(module, nn.Linear)]
        self.features = features if features is not None else (linear[-1] if linear else None)
        for index, module in enumerate(self.modules):
            missing = set(self.names) - dict(module.named_parameters()).keys()
            if missing:
                raise LbgnasError(f"experts[{index}]: has no parameter named {sorted(missing)[0]!r}")

    def __len__(self) -> int:
        return len(self.modules)

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
        """
        module = self.modules[index]
        caught: list[Tensor] = []
        handle: AbstractContextManager[object] = nullcontext()
        if want_features:
            if self.features is None:
                raise LbgnasError(f"experts[{index}]: name the submodule whose input is the embedding (features=...)")

            def catch(_: nn.Module, args: tuple[Tensor, ...]) -> None:
                caught.append(args[0].flatten(1))

            handle = module.get_submodule(self.features).register_forward_pre_hook(catch)
        with handle, statistics or nullcontext():
            logits: Tensor = functional_call(module, {**weights, **architecture}, (x,))
        return logits, caught[0] if caught else x.new_empty(0)
