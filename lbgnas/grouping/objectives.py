"""The losses of the three levels, one pure function an equation.

Equation numbers are those of "Fair and Accurate Decision Making through Group-Aware Learning" (ICML 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lbgnas.errors import LbgnasError
from lbgnas.tangents import linear, shifted, taken_apart


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each row, (batch,), from logits (batch, classes).

    Composed of exp, sum and log: forward-mode through torch's log_softmax edits a tensor that a backward needs.

    Raises:
        LbgnasError: for a label outside 0..classes - 1, on the CPU; on other devices the look would wait for them.
    """
    if labels.device.type == "cpu":
        check_labels(labels, logits.shape[1])
    moved = shifted(logits, -taken_apart(logits).value.detach().amax(1, keepdim=True))
    return moved.exp().sum(1).log() - moved.gather(1, labels[:, None])[:, 0]


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse labels outside 0..classes - 1.

    Raises:
        LbgnasError: names the label and what is allowed.
    """
    low, high = (int(bound) for bound in labels.aminmax()) if len(labels) else (0, 0)
    if low < 0 or high >= classes:
        raise LbgnasError(
            f"label {low if low < 0 else high} is out of range: the logits have {classes} classes, allowed are "
            f"0..{classes - 1}"
        )


def route(probs: Tensor) -> tuple[Tensor, Tensor]:
    """Return (confidence, group): E_n, the gate's largest output for each sample, and its column.

    Args:
        probs: the gate's output f(x; T), (batch, groups), rows sum to 1.
    """
    confidence, group = probs.max(1)
    return confidence, group


def gate_loss(log_probs: Tensor, assigned_prob: Tensor, assigned_group: Tensor) -> Tensor:
    """Return L1 = mean_n -G_n log f_{j_n}(x_n; T)  (Eq. 1).

    Args:
        log_probs: log of the gate's output, (batch, groups).
        assigned_prob: G_n, (batch,).
        assigned_group: j_n, (batch,).

    Example:
        >>> import torch
        >>> gate_loss(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([1.0]), torch.tensor([0])).item()
        0.6931471824645996
    """
    return -(assigned_prob * log_probs.gather(1, assigned_group[:, None])[:, 0]).mean()


def negative_mutual_information(log_probs: Tensor) -> Tensor:
    """Return mean entropy of the gate minus entropy of its mean, in nats; -log(groups) at best, 0 at worst.

    Low where every decision is sharp and all groups are used. It is not in the paper: a gate that answers 1/K for
    every sample is balanced and still sends everything to one expert. Independent of Z, so no hypergradient changes.
    """
    probs = log_probs.exp()
    mean = probs.mean(0)
    mean_entropy = -(probs * log_probs).sum(1).mean()
    return mean_entropy + (mean * mean.clamp_min(1e-12).log()).sum()


def expert_loss(logits: Tensor, labels: Tensor, confidence: Tensor, batch: int) -> Tensor:
    """Return one expert's share of L2 = mean_n E_n(T) CE(f(x_n; S_j), y_n)  (Eq. 3).

    Args:
        logits: of the expert's own samples, (own, classes).
        labels: (own,).
        confidence: E_n of those samples, (own,).
        batch: the number of samples of the whole batch, by which the mean divides.
    """
    return linear(lambda losses: (confidence * losses).sum() / batch, cross_entropy(logits, labels))


def validation_loss(logits: Tensor, labels: Tensor, confidence: Tensor, batch: int) -> Tensor:
    """Return one expert's share of L3 = mean_i CE(E_i(T) f(x_i; S_j), y_i)  (Eq. 9), f being logits."""
    return cross_entropy(confidence[:, None] * logits, labels).sum() / batch


def mixture_loss(logits: Sequence[Tensor], labels: Tensor, probs: Tensor) -> Tensor:
    """Return mean_i -log sum_k f_k(x_i; T) p_k(y_i | x_i), the negative log-likelihood of the soft mixture.

    Args:
        logits: of each expert on all samples, (batch, classes) each.
        labels: (batch,).
        probs: f(x; T), (batch, groups).
    """
    each = torch.stack([-cross_entropy(own, labels) for own in logits], 1)
    tiny = torch.finfo(probs.dtype).tiny
    return -(each + probs.clamp_min(tiny).log()).logsumexp(1).mean()
