"""Weights that balance the classes inside each group, so that an expert does not inherit its group's label skew."""

from __future__ import annotations

import torch
from torch import Tensor

KEEP = 0.98
"""How much of the counts the next step keeps: they remember about the last 50 batches."""


def initial_counts(groups: int, classes: int) -> Tensor:
    """Return the counts before the first step, one sample of every class in every group."""
    return torch.ones(groups, classes)


def moved_counts(counts: Tensor, group: Tensor, labels: Tensor) -> Tensor:
    """Return the counts (groups, classes) after a batch with these groups and labels, (batch,) each."""
    place = group * counts.shape[1] + labels
    seen = torch.bincount(place, minlength=counts.numel()).reshape(counts.shape)
    return KEEP * counts + seen.to(counts.dtype)


def class_weights(counts: Tensor) -> Tensor:
    """Return w_kc = n_k / (classes * n_kc): every class of a group weighs the same, and the mean weight is 1.

    Counts are those of the steps before: w does not depend on what a step differentiates, so hypergradients stay
    exact. One more sample of each class keeps w finite where a class is gone.

    Example:
        >>> class_weights(torch.tensor([[29.0, 9.0]])).tolist()
        [[0.6666666865348816, 2.0]]
    """
    known = counts + 1
    return known.sum(1, keepdim=True) / (known.shape[1] * known)
