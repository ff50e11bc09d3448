"""What is told of an epoch of a search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lbgnas.genotype import CellGenotype
from lbgnas.grouping.levels import Losses


def add_losses(sums: dict[str, float], losses: Losses) -> None:
    """Add one step's losses to the sums of an epoch."""
    values = {
        "gate_loss": losses.gate,
        "expert_loss": losses.experts,
        "validation_loss": losses.validation,
        "adaptation_loss": losses.adaptation,
        "mutual_information": losses.mutual_information,
        "gradient_norm": losses.gradient_norm,
        "correct": losses.correct,
    }
    known = {name: value for name, value in values.items() if value is not None}
    numbers = torch.stack([value.detach().double() for value in known.values()]).tolist()
    for name, number in zip(known, numbers, strict=True):
        sums[name] = sums.get(name, 0.0) + number
    sums["seen"] = sums.get("seen", 0.0) + sum(losses.validation_groups)


def epoch_means(sums: Mapping[str, float], steps: int) -> dict[str, Any]:
    """Return the means of an epoch's losses as they stand in its record."""
    names = ("gate_loss", "expert_loss", "validation_loss", "adaptation_loss")
    return {
        "losses": {name: sums[name] / steps for name in names if name in sums},
        "gradient_norm": sums["gradient_norm"] / steps,
        "supernet_accuracy": sums["correct"] / sums["seen"] if sums.get("seen") else None,
    }


def group_record(probs: Tensor, assignment_logits: Tensor | None) -> dict[str, Any]:
    """Return how the training half is grouped.

    Args:
        probs: f(x; T) of the training half, (N, K).
        assignment_logits: the rows of Z of the same samples, or None without a gate.
    """
    record: dict[str, Any] = {
        "group_share": group_shares(probs.argmax(1), probs.shape[1]),
        "group_entropy": entropy(probs.mean(0)),
        "decision_entropy": float(torch.special.entr(probs).sum(1).mean()),
    }
    if assignment_logits is not None:
        assigned = assignment_logits.argmax(1).cpu()
        record["assigned_share"] = group_shares(assigned, assignment_logits.shape[1])
        record["assignment_agreement"] = float((assigned == probs.argmax(1)).float().mean())
    return record


def cell_record(cells: Sequence[CellGenotype]) -> dict[str, Any]:
    """Return the architectures as they would be read off now."""
    return {
        "skips": [[cell.skips("normal"), cell.skips("reduce")] for cell in cells],
        "genotypes": [cell.short() for cell in cells],
    }


def group_shares(group: Tensor, count: int) -> list[float]:
    """Return the share of samples in each group."""
    shares: list[float] = (torch.bincount(group, minlength=count) / max(len(group), 1)).tolist()
    return shares


def entropy(probs: Tensor) -> float:
    """Return the entropy of a distribution in units of its largest possible value, 1 for one group alone."""
    return float(torch.special.entr(probs).sum() / math.log(len(probs))) if len(probs) > 1 else 1.0


def epoch_line(record: dict[str, Any], epochs: int, stages: int) -> str:
    """Return one line that tells an epoch's record."""
    losses = record["losses"]
    short = {"gate_loss": "gate", "expert_loss": "experts", "validation_loss": "validation"}
    parts = [f"epoch {record['epoch'] + 1}/{epochs}"]
    if stages > 1:
        parts.append(f"stage {record['stage'] + 1}/{stages}")
    parts.append("loss " + " ".join(f"{label} {losses[name]:.3f}" for name, label in short.items() if name in losses))
    parts.append(f"val acc {record['validation_accuracy']:.3f}")
    if len(record["group_share"]) > 1:
        shares = "/".join(f"{share:.2f}" for share in record["group_share"])
        parts.append(f"groups {shares} entropy {record['group_entropy']:.2f} agree {record['expert_agreement']:.2f}")
    parts.append("skips " + " ".join(f"{normal}+{reduce}" for normal, reduce in record["skips"]))
    if not record["architecture_learned"]:
        parts.append("A frozen (warm-up)")
    parts.append(f"{record['seconds']:.1f}s")
    below = [f"    {k}: {text}" for k, text in enumerate(record["genotypes"])]
    below += [f"    note: {note}" for note in record["notes"]]
    return "\n".join([" | ".join(parts), *below])
