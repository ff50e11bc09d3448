"""What one iteration of Algorithm 1 is given and what it hands back, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from lbgnas.grouping.adaptation import Adaptation
from lbgnas.grouping.cost import Cost
from lbgnas.grouping.hypergradient import Exact, Hypergradient
from lbgnas.grouping.sgd import Sgd, Tensors

Samples = tuple[Tensor, Tensor, Tensor]
"""Images (batch, ...), labels (batch,) and sample ids (batch,); ids are unique in a training batch."""


@dataclass(frozen=True)
class Levels:
    """How each level of one iteration is taken.

    Attributes:
        gate: eta_T and the gate's other SGD settings.
        experts: eta_S and the experts' other SGD settings; the clip is per expert.
        hypergradient: how second-order terms are taken.
        adaptation: lambda and M_k of DALBG, or None.
        mutual_information: weight of the negative mutual information beside L1; 0 leaves it out.
        class_weights: (K, classes), the weight in L2 of an expert's samples of a class; None for 1 throughout.
        mixture: whether level 3 is the likelihood of the soft mixture in place of Eq. 9.
        architecture: whether A is learned in this iteration.
        assignments: whether Z is learned in this iteration.
        cost: what an expert's architecture costs, added to level 3; None for nothing.
    """

    gate: Sgd
    experts: Sgd
    hypergradient: Hypergradient = field(default_factory=Exact)
    adaptation: Adaptation | None = None
    mutual_information: float = 0.0
    class_weights: Tensor | None = None
    mixture: bool = False
    architecture: bool = True
    assignments: bool = True
    cost: Cost | None = None


@dataclass(frozen=True)
class Losses:
    """What one iteration saw, as tensors that no host has waited for.

    Attributes:
        gate, experts, validation: L1, L2 (adaptation included), L3; L3 is None where nothing was learned from it.
        mutual_information: of the gate on the training batch, nats; None without a gate.
        adaptation: lambda sum_k M_k over the experts that have samples in the batch.
        gradient_norm: |grad_S L2| over all experts, before any clip.
        correct: right answers on the validation batch.
        confidence: mean E_i on the validation batch.
        train_groups, validation_groups: samples routed to each expert, host integers.
    """

    gate: Tensor | None
    experts: Tensor
    validation: Tensor | None
    mutual_information: Tensor | None
    adaptation: Tensor
    gradient_norm: Tensor
    correct: Tensor | None
    confidence: Tensor | None
    train_groups: list[int]
    validation_groups: list[int]


@dataclass(frozen=True)
class Unrolled:
    """The result of one iteration, nothing committed: T', S' with their momentum buffers, and the hypergradients.

    Attributes:
        assignment_gradient: dL3/dZ of the batch's rows, (batch, groups), or None.
        architecture_gradients: dL3/dA_k by expert and name; experts without a validation sample are left out.
        train_group: the expert of each sample of B, (batch,).
    """

    gate: Tensors
    gate_buffers: Tensors
    experts: Mapping[int, Tensors]
    expert_buffers: Mapping[int, Tensors]
    assignment_gradient: Tensor | None
    architecture_gradients: Mapping[int, Tensors]
    train_group: Tensor
    losses: Losses
