"""`LBG`, a strategy of NNI's experiments: K experts and a gate searched together by Learning by Grouping."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lbgnas.bases.base import find_base
from lbgnas.data.seeds import derive_seed
from lbgnas.engine.result import write_genotype
from lbgnas.errors import LbgnasError, unknown
from lbgnas.grouping.experts import seeded
from lbgnas.networks.gate import SmallGate
from lbgnas.nni.builder import Builder
from lbgnas.nni.cost import MEASURES, Measure
from lbgnas.nni.genotypes import from_nni
from lbgnas.nni.host import DARTS, trial
from lbgnas.nni.module import GroupedModule, Search
from lbgnas.nni.optimizers import check_criterion, class_count
from lbgnas.nni.relaxed import Form, RelaxedCell, RelaxedLayer, leave_fixed
from lbgnas.nni.samples import numbered
from lbgnas.nni.settings import strategy_settings
from lbgnas.nni.spaces import GroupedSpace


class LBG(DARTS):
    """Search K architectures and the gate that chooses among them, in one NNI experiment.

    Takes the place of NNI's own differentiable strategies; see docs/nni.md.

    Args:
        num_experts: K.
        grouping: "lbg", "dalbg" (with domain adaptation), or "none" (the base alone, one network).
        base: "darts", "pcdarts", "darts-" or "pdarts".
        gate_module: images to logits (batch, K); by default a small CNN, for which the space must begin with a
            convolution.
        features: name of the submodule of the space whose input is the embedding that dalbg compares; by default its
            last linear layer.
        cost: "flops" or "parameters": what an architecture is charged for in level 3; None for nothing.
        cost_weight: weight of the expected cost, as a share of that at equal alphas.
        arc_learning_rate: Adam's rate for the architectures; by default the base's own.
        gradient_clip_val: largest norm of one expert's gradient; None for any.
        warmup_epochs: epochs (of each stage) in which architectures rest; by default the base's own share.
        log_prob_every_n_step: steps between two logs of the candidates' probabilities.
        mutation_hooks: as for NNI's strategies.
        **settings: settings of a search by their names: hypergradient, adaptation, adaptation_weight, expert_balance,
            third_level, literal, assignments, gate, architecture, auxiliary_skip, stages, max_skips, seed.

    Raises:
        LbgnasError: for a name or value that is not allowed, and, when the experiment starts, for a space or an
            evaluator that the method cannot search.

    Example:
        >>> LBG(num_experts=2, grouping="dalbg", base="darts").settings.experts
        2
    """

    def __init__(
        self,
        num_experts: int = 2,
        grouping: str = "lbg",
        base: str = "darts",
        *,
        gate_module: nn.Module | None = None,
        features: str | None = None,
        cost: Measure | None = None,
        cost_weight: float = 0.1,
        arc_learning_rate: float | None = None,
        gradient_clip_val: float | None = 5.0,
        warmup_epochs: int | None = None,
        log_prob_every_n_step: int = 10,
        mutation_hooks: list[Callable[..., Any]] | None = None,
        **settings: Any,
    ) -> None:
        self.settings = strategy_settings(base, grouping, num_experts, settings)
        self.base = find_base(base)
        if cost is not None and cost not in MEASURES:
            raise unknown("cost", cost, MEASURES, "LBG")
        known = self.settings.architecture.rate
        rates = (arc_learning_rate, known, self.base.architecture_rate)
        rate = next(float(value) for value in rates if value is not None)
        super().__init__(
            arc_learning_rate=rate,
            gradient_clip_val=gradient_clip_val,
            log_prob_every_n_step=log_prob_every_n_step,
            warmup_epochs=warmup_epochs,
            mutation_hooks=mutation_hooks,
        )
        self.gate_module = gate_module
        self.features = features
        self.cost: Measure | None = cost
        self.cost_weight = cost_weight
        self._form: Form | None = None
        self._builder: Builder | None = None
        self._module: GroupedModule | None = None

    # ------------------------------------------------------------------------------------ space to supernet

    def mutate_model(self, model: Any) -> GroupedSpace:
        """Return K relaxed copies of the space and the gate; the space itself stays as it is."""
        evaluator = None if self._model_space is None else getattr(self._model_space, "evaluator", None)
        classes = None if evaluator is None else class_count(evaluator.module)
        self._builder = Builder(model, self.settings, self.base, classes, self._relax)
        experts = self._builder(0)
        return GroupedSpace(experts, self._gate(experts[0]))

    def _relax(self, space: Any, form: Form) -> nn.Module:
        self._form = form
        relaxed: nn.Module = super().mutate_model(space)
        return relaxed

    def default_mutation_hooks(self) -> list[Any]:
        """Our cells and choices, then NNI's own hooks for everything else."""
        assert self._form is not None
        own = [functools.partial(kind.relax, self._form) for kind in (RelaxedCell, RelaxedLayer)]
        return [leave_fixed, *own, *super().default_mutation_hooks()]

    def _gate(self, expert: nn.Module) -> nn.Module | None:
        if self.settings.grouping == "none":
            return None
        if self.gate_module is not None:
            return self.gate_module
        first = next((module for module in expert.modules() if isinstance(module, nn.Conv2d)), None)
        if first is None:
            raise LbgnasError("LBG: the space begins with no convolution that tells the channels; give gate_module=...")
        with seeded(derive_seed(self.settings.seed, "gate") % 2**63, torch.device("cpu")):
            return SmallGate(first.in_channels, self.settings.experts, self.settings.gate.width)

    # ------------------------------------------------------------------------------------ evaluator and data

    def configure_oneshot_module(self, training_module: Any) -> GroupedModule:
        """Return the module that searches in the evaluator's place."""
        check_criterion(training_module)
        assert self._builder is not None
        self._module = GroupedModule(
            training_module,
            Search(
                self.settings,
                self.base,
                self._builder,
                self.arc_learning_rate,
                self.gradient_clip_val,
                self.warmup_epochs,
                self.log_prob_every_n_step,
                self.cost,
                self.cost_weight,
                self.features,
            ),
        )
        return self._module

    def train_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> Any:
        """Return training batches with ids beside validation batches."""
        train = train_dataloader_fn()
        if self.settings.grouping != "none":
            train = numbered(train)
            assert self._module is not None
            self._module.samples = len(train.dataset)
        return {"train": train, "val": val_dataloader_fn()}

    def val_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> Any:
        """Return the validation batches, so that metrics are seen during the search."""
        return val_dataloader_fn()

    # --------------------------------------------------------------------------------------- run and result

    def _run(self) -> None:
        """Search; inside a trial of NNI, leave the trial's own parameters as they were.

        NNI's engine puts the network in their place and does not put them back, so that what the trial reports
        afterwards would be credited to no trial.
        """
        kept = trial._params, trial._intermediate_seq
        try:
            super()._run()
        finally:
            trial._params, trial._intermediate_seq = kept

    def state_dict(self) -> dict[str, Any]:
        """Return where the trainer's last checkpoint is; nothing if the evaluator keeps none."""
        space = self._mutated_model_space
        if space is None or space.evaluator.trainer.checkpoint_callback is None:
            return {}
        state: dict[str, Any] = super().state_dict()
        return state

    @property
    def oneshot_module(self) -> GroupedModule:
        """The module that searched; after the experiment has begun."""
        module: GroupedModule = super().oneshot_module
        module.set_model(self.supernet)
        return module

    def list_models(self, sort: bool = True, limit: int | None = None) -> Iterator[Any]:
        """Yield the experts in the order of the gate's outputs, at most `limit` of them."""
        for sample in self.oneshot_module.export_experts()[:limit]:
            yield self.model_space.freeze(sample)

    def save_genotype(self, folder: str | Path, space: Literal["darts", "pcdarts"] = "darts") -> Path:
        """Write the experts of a DARTS space, and the gate, as a genotype file that tools/evaluate.py takes.

        Args:
            folder: of genotype.json and gate.safetensors.
            space: the search space the file names.

        Raises:
            LbgnasError: if the space is of another family, or the gate is not the default one.
        """
        cells = tuple(
            from_nni(sample, f"experts[{index}]") for index, sample in enumerate(self.oneshot_module.export_experts())
        )
        gate = self.supernet.gate
        if gate is not None and not isinstance(gate, SmallGate):
            raise LbgnasError("LBG: a genotype file holds the default gate only, and this one is a gate_module")
        return write_genotype(Path(folder), self.settings, space, cells, gate, {"host": "nni"})
