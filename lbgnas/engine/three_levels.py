"""How settings say that gate, experts and C are learned; the same for a search and for fixed networks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lbgnas.config import GateSettings, LevelSettings, WeightSettings
from lbgnas.data.seeds import derive_seed
from lbgnas.grouping.adaptation import Adaptation, find_distance
from lbgnas.grouping.assignments import RowOptimizer, initial_assignments
from lbgnas.grouping.hypergradient import Exact, FiniteDifference, FirstOrder, Hypergradient
from lbgnas.grouping.levels import Levels
from lbgnas.grouping.sgd import Sgd

HYPERGRADIENTS: dict[str, Hypergradient] = {
    "exact": Exact(),
    "fd": FiniteDifference(),
    "first-order": FirstOrder(),
}


def three_levels(
    settings: LevelSettings,
    gate: GateSettings,
    weights: WeightSettings,
    adapted: bool,
    expert_rate: float,
    gate_rate: float,
    architecture: bool,
) -> Levels:
    """Return how the three levels are taken.

    Args:
        settings, gate, weights: of the run.
        adapted: whether the distance between groups joins level 2.
        expert_rate, gate_rate: of this epoch.
        architecture: whether level 3 learns A.
    """
    adaptation = Adaptation(find_distance(settings.adaptation), settings.adaptation_weight) if adapted else None
    return Levels(
        gate=Sgd(gate_rate, gate.momentum, gate.decay),
        experts=Sgd(expert_rate, weights.momentum, weights.decay, weights.clip),
        hypergradient=HYPERGRADIENTS[settings.hypergradient],
        adaptation=adaptation,
        mutual_information=gate.mutual_information,
        mixture=settings.third_level == "mixture",
        assignments=not settings.assignments.frozen,
        architecture=architecture,
    )


class Start(NamedTuple):
    """What a learner begins with beside its networks: Z, how its rows move, classes to balance (0: none)."""

    assignment_logits: Tensor
    rows: RowOptimizer
    balance_classes: int


def learner_start(
    settings: LevelSettings, seed: int, samples: int, experts: int, classes: int, device: torch.device
) -> Start:
    """Return Z at its random start for `samples` rows of `experts` entries, and the settings that stay."""
    own = settings.assignments
    logits = initial_assignments(samples, experts, derive_seed(seed, "assignments") % 2**63, own.scale)
    balanced = classes if settings.expert_balance == "class" else 0
    return Start(logits.to(device), RowOptimizer(own.optimizer, own.rate), balanced)
