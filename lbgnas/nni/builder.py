"""The relaxed experts of a stage, built from the user's space."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lbgnas.bases.base import Base
from lbgnas.bases.derivation import softmax, strongest
from lbgnas.bases.pdarts import ascending, kept_candidates, kept_names
from lbgnas.config import SearchSettings
from lbgnas.data.seeds import derive_seed
from lbgnas.errors import LbgnasError
from lbgnas.grouping.experts import seeded
from lbgnas.nni.relaxed import Form, Names, Relaxed
from lbgnas.nni.spaces import with_classes
from lbgnas.space import load_space

Relax = Callable[[Any, Form], nn.Module]
"""Space and form to the relaxed network; the space is changed."""


class Builder:
    """Builds the experts of every stage.

    Attributes:
        candidates: how many every choice has in the first stage, by label.

    Args:
        space: the user's, which stays as it is.
        settings: of the strategy.
        base: its base.
        classes: of the evaluator; None for what the space has.
        relax: how NNI relaxes a space.
    """

    def __init__(self, space: Any, settings: SearchSettings, base: Base, classes: int | None, relax: Relax) -> None:
        self.space = space
        self.settings = settings
        self.base = base
        self.classes = classes
        self.relax = relax
        self.partial = load_space(base.space).partial_channels
        self.candidates: dict[str, int] = {}
        for stage in range(len(base.kept)):
            self._sizes(stage)

    def __call__(self, stage: int, kept: Sequence[Mapping[str, Names]] = ()) -> list[nn.Module]:
        """Return the K experts of a stage, whose choices have the candidates in `kept` (all at the first)."""
        experts = []
        with seeded(derive_seed(self.settings.seed, "start", stage) % 2**63, torch.device("cpu")):
            for index in range(self.settings.experts):
                space = self._space(stage)
                if index or stage:
                    _draw_anew(space)
                if self.classes is not None and hasattr(space, "classifier"):
                    space = with_classes(space, self.classes)
                experts.append(self._relaxed(space, kept[index] if kept else {}))
        if not stage:
            self.candidates = {label: len(names) for label, (_, names, _) in choices_of(experts[0]).items()}
        return experts

    def _relaxed(self, space: Any, kept: Mapping[str, Names]) -> nn.Module:
        read = ascending if self.base.name == "pdarts" else strongest
        form = Form(self.partial, self.base.auxiliary_skip, read, self.most_skips, kept)
        try:
            relaxed = self.relax(space, form)
        except LbgnasError:
            raise
        except (TypeError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0][:200]
            raise LbgnasError(f"LBG: {type(space).__name__} cannot be relaxed by NNI: {reason}") from error
        choices = any(isinstance(module, Relaxed) for module in relaxed.modules())
        if not choices and self.base.name != "darts":
            raise LbgnasError(
                f"LBG: base {self.base.name} changes cells and layer choices, and {type(space).__name__} has none; "
                f"use base darts"
            )
        return relaxed

    @property
    def most_skips(self) -> int | None:
        """Skip connections that a normal cell may have."""
        own = self.settings.max_skips
        return self.base.max_skips if own is None else own

    def _space(self, stage: int) -> Any:
        sizes = self._sizes(stage)
        if not sizes:
            return copy.deepcopy(self.space)
        return type(self.space)(**{**self.space.trace_kwargs, **sizes})

    def _sizes(self, stage: int) -> dict[str, int]:
        """Return the arguments of the space that differ in a stage.

        Raises:
            LbgnasError: if the space cannot be built deeper or wider.
        """
        stages = self.settings.stages
        sizes = {}
        for name, added in (("num_cells", stages.added_cells), ("width", stages.added_channels)):
            if stage >= len(added) or not added[stage] or len(self.base.kept) == 1:
                continue
            known = getattr(self.space, "trace_kwargs", {})
            value = known.get(name, getattr(self.space, name, None))
            if getattr(self.space, "trace_args", ()) or type(value) is not int or name not in known:
                field = "added_cells" if name == "num_cells" else "added_channels"
                raise LbgnasError(
                    f"LBG: base {self.base.name} changes {name} from stage to stage, and "
                    f"{type(self.space).__name__} was not built with one whole number {name}=...; build it so, or "
                    f"give stages={{{field!r}: (0, 0, 0)}}"
                )
            sizes[name] = value + added[stage]
        return sizes

    def kept(self, network: nn.Module, stage: int) -> dict[str, Names]:
        """Return the candidates that every choice of a network has left in a later stage.

        Args:
            network: of the stage before.
            stage: the later one.
        """
        left: dict[str, Names] = {}
        for label, (alpha, names, _) in choices_of(network).items():
            count = kept_candidates(self.base.kept[stage], self.candidates[label])
            # A plain text: NNI's own labels are of a class that no checkpoint loads.
            left[str(label)] = kept_names(names, softmax(alpha.detach().double().cpu().numpy()), count)
        return left


def choices_of(network: nn.Module) -> dict[str, tuple[nn.Parameter, Names, Mapping[Any, nn.Module]]]:
    """Return alpha, candidates and modules of every choice, by label; of those that share a label, the first's."""
    found: dict[str, tuple[nn.Parameter, Names, Mapping[Any, nn.Module]]] = {}
    for module in network.modules():
        if isinstance(module, Relaxed):
            found = {**module.mixed(), **found}
    return found


def _draw_anew(network: nn.Module) -> None:
    """Draw weights again where layers know how; experts that start alike would part by their alphas alone."""
    for module in network.modules():
        draw = getattr(module, "reset_parameters", None)
        if callable(draw):
            draw()
