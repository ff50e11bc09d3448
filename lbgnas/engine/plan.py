"""What happens when in a search: stages, their sizes, every schedule; and how a stage's supernets are built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from lbgnas.bases.base import Base
from lbgnas.bases.darts_minus import auxiliary_weight
from lbgnas.bases.pdarts import kept_candidates, skip_dropout
from lbgnas.config import SearchSettings
from lbgnas.data.image_data import DataInfo
from lbgnas.data.seeds import derive_seed
from lbgnas.engine.schedules import cosine
from lbgnas.engine.three_levels import learner_start, three_levels
from lbgnas.errors import LbgnasError
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.learner import Learner
from lbgnas.grouping.levels import Levels
from lbgnas.networks.counting import count_parameters
from lbgnas.networks.gate import SmallGate
from lbgnas.networks.layout import reduction_cells, size_multiple
from lbgnas.networks.sizing import expert_cells
from lbgnas.networks.supernet import Supernet
from lbgnas.ranks import ALONE, Ranks
from lbgnas.space import KINDS, Kind, SearchSpace, load_space


class Stage(NamedTuple):
    """One stage of a search.

    Attributes:
        single: cells of the single supernet.
        cells: cells of each expert.
        channels: of the first cell.
        skip_dropout: P-DARTS's rate at the start of the stage.
        keep: candidates of an edge, at most.
    """

    single: int
    cells: int
    channels: int
    skip_dropout: float
    keep: dict[Kind, int]


def space_of(settings: SearchSettings, base: Base) -> SearchSpace:
    """Return the space that is searched; whether a skip stands beside every edge is the base's decision."""
    return load_space(settings.space or base.space).with_auxiliary_skip(base.auxiliary_skip)


class Plan:
    """The stages of a search, and what changes from epoch to epoch.

    Args:
        settings: of the search.
        base: its base.
        space: what is searched.

    Raises:
        LbgnasError: if the settings name fewer stages than the base has, or sizes that do not fit the space.
    """

    def __init__(self, settings: SearchSettings, base: Base, space: SearchSpace) -> None:
        self.settings = settings = settings.in_force
        self.base = base
        self.space = space
        if settings.precision == "bfloat16" and settings.hypergradient == "fd":
            raise LbgnasError(
                "precision: bfloat16 has too few digits for the differences of hypergradient fd; use hypergradient "
                "exact or first-order, or precision float32"
            )
        own = settings.stages
        for name in ("added_cells", "added_channels", "skip_dropout"):
            given = getattr(own, name)
            if len(given) < len(base.kept):
                raise LbgnasError(f"stages.{name}: {len(given)} given, base {base.name} has {len(base.kept)} stages")
        first = settings.network.cells or space.cells
        self.stages = tuple(
            Stage(
                first + own.added_cells[index],
                expert_cells(first + own.added_cells[index], settings.experts),
                settings.network.channels + own.added_channels[index],
                own.skip_dropout[index],
                {kind: kept_candidates(share, space.columns(kind)) for kind in KINDS},
            )
            for index, share in enumerate(base.kept)
        )
        for stage in self.stages:
            self._check(stage)

    def _check(self, stage: Stage) -> None:
        space, step = self.space, 2 * self.space.partial_channels
        if stage.channels < step or stage.channels % step:
            near = max(step, round(stage.channels / step) * step)
            raise LbgnasError(
                f"network.channels: {stage.channels} must be a multiple of {step} for base {self.base.name}; "
                f"the nearest is {near}"
            )
        if stage.cells < 3 or len(reduction_cells(stage.cells, space.reduction_points)) == stage.cells:
            raise LbgnasError(
                f"network.cells: a supernet of {stage.cells} cells has no normal cell in the space {space.name!r}, "
                f"which reduces at {', '.join(space.reductions)} of the depth; give more cells"
            )

    @property
    def epochs(self) -> int:
        """Epochs of all stages."""
        return self.settings.epochs * len(self.stages)

    def place(self, epoch: int) -> tuple[int, int]:
        """Return the stage of an epoch and its number inside that stage."""
        stage = min(epoch // self.settings.epochs, len(self.stages) - 1)
        return stage, epoch - stage * self.settings.epochs

    @property
    def warmup(self) -> int:
        """Epochs of each stage with A frozen; C is not."""
        share = self.settings.architecture.warmup
        return round((self.base.warmup if share is None else share) * self.settings.epochs)

    @property
    def max_skips(self) -> int | None:
        """Skip connections that a normal cell may have."""
        return self.base.max_skips if self.settings.max_skips is None else self.settings.max_skips

    @property
    def size_multiple(self) -> int:
        """What sides of images are padded to a multiple of, so that they fit the supernets of every stage."""
        space = self.space
        return max(4, *(size_multiple(stage.cells, space.stem, space.reduction_points) for stage in self.stages))

    def levels(self, epoch: int) -> Levels:
        """Return how the three levels are taken in an epoch.

        The experts' rate follows a cosine over each stage, the gate's one over the whole search: it is not new.
        """
        settings = self.settings
        weights, gate = settings.weights, settings.gate
        _, own_epoch = self.place(epoch)
        rate = cosine(weights.rate, weights.rate_min, own_epoch, settings.epochs)
        whole = cosine(weights.rate, weights.rate_min, epoch, self.epochs)
        return three_levels(
            settings,
            gate,
            weights,
            settings.grouping == "dalbg",
            rate,
            gate.rate * whole / weights.rate,
            own_epoch >= self.warmup,
        )

    def prepare(self, experts: Experts, epoch: int) -> None:
        """Make supernets ready to train in an epoch: dropout on skips, weight of the auxiliary skip."""
        settings = self.settings
        stage, own_epoch = self.place(epoch)
        skip = settings.auxiliary_skip
        for module in experts.modules:
            assert isinstance(module, Supernet)
            start = self.stages[stage].skip_dropout
            module.skip_dropout = skip_dropout(start, own_epoch, settings.epochs, self.warmup)
            module.auxiliary_weight = auxiliary_weight(skip.decay, skip.weight, own_epoch, settings.epochs)
            module.train()


def build_experts(
    plan: Plan,
    spaces: Sequence[SearchSpace],
    stage: int,
    info: DataInfo,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> Experts:
    """Return new supernets for a stage, one for each space; each space has the candidates that its expert has left."""
    words = ("start",) if stage == 0 else ("start", stage)
    torch.manual_seed(derive_seed(plan.settings.seed, *words) % 2**63)
    size = plan.stages[stage]
    modules = [Supernet(space, size.cells, size.channels, info.num_classes, info.channels) for space in spaces]
    for module in modules:
        module.recompute = plan.settings.memory == "low"
    names = tuple(modules[0].architecture_parameters())
    on_device = [module.to(device).to(memory_format=torch.channels_last) for module in modules]
    compute = torch.bfloat16 if plan.settings.precision == "bfloat16" else None
    return Experts(on_device, names, "classifier", ranks, compute)


def build_learner(
    plan: Plan,
    spaces: Sequence[SearchSpace],
    samples: int,
    info: DataInfo,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> Learner:
    """Return the learner at the start of a search: supernets of the first stage, gate and C."""
    settings = plan.settings
    experts = build_experts(plan, spaces, 0, info, device, ranks)
    gate = None
    if settings.grouping != "none":
        gate = SmallGate(info.channels, settings.experts, settings.gate.width).to(device)
    start = learner_start(settings, settings.seed, samples, settings.experts, info.num_classes, device)
    architecture = settings.architecture
    return Learner(
        experts,
        gate,
        None if gate is None else start.assignment_logits,
        start.rows,
        plan.base.architecture_rate if architecture.rate is None else architecture.rate,
        architecture.decay,
        plan.base.architecture_clip,
        start.balance_classes,
    )


def told_size(plan: Plan, stage: int, spaces: Sequence[SearchSpace], info: DataInfo) -> str:
    """Return a line with the parameters of a stage's experts and, beside it, of the single network.

    The single network has the candidates of the first expert.
    """
    size, count = plan.stages[stage], len(plan.stages)

    def parameters(space: SearchSpace, cells: int) -> int:
        with torch.device("meta"):
            return count_parameters(Supernet(space, cells, size.channels, info.num_classes, info.channels))

    together = sum(parameters(space, size.cells) for space in spaces)
    name = plan.settings.grouping + (f", stage {stage + 1} of {count}" if count > 1 else "")
    return (
        f"{plan.base.name}, {name}: {len(spaces)} x {size.cells} cells, {size.channels} channels, {together:,} "
        f"parameters together; the single network of {size.single} cells has {parameters(spaces[0], size.single):,}"
    )
