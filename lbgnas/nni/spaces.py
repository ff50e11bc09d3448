"""K relaxed copies of a user's space and a gate, as one model space of NNI."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

from torch import Tensor, nn

from lbgnas.errors import LbgnasError
from lbgnas.grouping.stages import groups_of
from lbgnas.nni.host import ModelSpace

M = TypeVar("M", bound=nn.Module)


class GroupedSpace(ModelSpace, disable_init_wrapper=True):  # type: ignore[call-arg]
    """K experts and the gate; each sample passes the expert that the gate sends it to.

    What else is asked of it is answered by the experts: an attribute by the first, a method by all (its result is the
    first's), so that an evaluator may call methods of its model.
    """

    def __init__(self, experts: Sequence[nn.Module], gate: nn.Module | None) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (batch, classes)."""
        if self.gate is None:
            logits: Tensor = self.experts[0](x)
            return logits
        (rows,) = groups_of([self.gate(x).argmax(1)], len(self.experts))
        output: Tensor | None = None
        for expert, own in zip(self.experts, rows, strict=True):
            if len(own):
                answers = expert(x[own])
                if output is None:
                    output = answers.new_zeros(len(x), *answers.shape[1:])
                output = output.index_copy(0, own, answers.to(output.dtype))
        assert output is not None
        return output

    def __getattr__(self, name: str) -> Any:
        """Ask the experts for what is not the space's own."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            experts = self.__dict__.get("_modules", {}).get("experts")
            if name.startswith("_") or not experts:
                raise
        found = [getattr(expert, name) for expert in experts]
        if not callable(found[0]):
            return found[0]

        @functools.wraps(found[0])
        def all_of_them(*args: Any, **kwargs: Any) -> Any:
            results = [method(*args, **kwargs) for method in found]
            return results[0]

        return all_of_them


def with_classes(model: M, num_classes: int) -> M:
    """Return the model with a `classifier` of so many outputs, new where it had others.

    NNI's hub spaces of the NASNet family have 10 or 1000 outputs; use this on what `model_context` rebuilds.

    Raises:
        LbgnasError: if it has no linear layer named classifier.
    """
    head = getattr(model, "classifier", None)
    if not isinstance(head, nn.Linear):
        raise LbgnasError(
            f"{type(model).__name__}: has no linear layer named classifier to give {num_classes} outputs; build the "
            f"space for as many classes as the evaluator has"
        )
    if head.out_features != num_classes:
        own: Any = head
        given = own.args["in_features"] if hasattr(head, "args") else head.in_features
        # A width that is still to be chosen asks for the context the space was built in.
        known: Any = getattr(model, "_frozen_context", None)
        with known if hasattr(known, "__enter__") else nullcontext():
            model.classifier = type(head)(given, num_classes)
        if hasattr(model, "num_labels"):
            model.num_labels = num_classes  # type: ignore[assignment]
    return model
