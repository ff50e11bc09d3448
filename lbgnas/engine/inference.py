"""Answers of a gate and its experts for many samples, in evaluation mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lbgnas.data.batches import batches
from lbgnas.data.image_data import ImageData
from lbgnas.grouping.experts import seeded
from lbgnas.ranks import ALONE, Ranks


class Answers(NamedTuple):
    """What gate and experts say of N samples, on the CPU.

    Attributes:
        gate: f(x; T), (N, K).
        routed: logits of each sample's own expert, (N, classes).
        experts: logits of every expert, (N, K, classes), or None where only the own expert was asked.
        labels: (N,).
    """

    gate: Tensor
    routed: Tensor
    experts: Tensor | None
    labels: Tensor

    @property
    def group(self) -> Tensor:
        """The expert each sample is routed to, (N,)."""
        return self.gate.argmax(1)


def _logits(module: nn.Module, images: Tensor) -> Tensor:
    output = module(images)
    logits: Tensor = output[0] if isinstance(output, tuple) else output
    return logits.float()


@torch.no_grad()
def gate_answers(gate: nn.Module | None, images: Tensor) -> Tensor:
    """Return f(x; T), (batch, K); ones without a gate."""
    if gate is None:
        return torch.ones(len(images), 1, device=images.device)
    output: Tensor = gate(images).float().softmax(1)
    return output


@torch.no_grad()
def answers(
    gate: nn.Module | None,
    experts: Sequence[nn.Module],
    data: ImageData,
    ids: Tensor,
    device: torch.device,
    batch_size: int = 256,
    all_experts: bool = False,
    multiple: int = 4,
    ranks: Ranks = ALONE,
) -> Answers:
    """Ask the gate for every sample's expert, and the experts for their answers, with running statistics.

    Args:
        gate: images to logits (batch, K), or None for one expert.
        experts: K modules, images to logits (or to a tuple that begins with them).
        data: where the samples are.
        ids: which samples, (N,).
        device: where to compute.
        batch_size: samples at once.
        all_experts: ask every expert for every sample, for the soft mixture.
        multiple: images are padded to a multiple of it.
        ranks: the processes that share the experts; each asks its own, and all get all answers.
    """
    modules = [*experts, *([gate] if gate is not None else [])]
    training = [module.training for module in modules]
    for module in modules:
        module.eval()
    seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    stream = batches(
        data, ids, batch_size, seed=0, words=("inference",), augment=False, device=device, shuffle=False,
        channels_last=True, multiple=multiple,
    )  # fmt: skip
    with seeded(0, device):  # noise is an operation too
        for images, labels, _ in stream:
            probs = gate_answers(gate, images)
            group = probs.argmax(1)
            if all_experts:
                asked = {k: _logits(expert, images) for k, expert in enumerate(experts) if ranks.owns(k)}
                nothing = torch.zeros_like(next(iter(asked.values())))
                every = torch.stack([asked.get(k, nothing) for k in range(len(experts))], 1)
                routed = every[torch.arange(len(group), device=device), group]
            else:
                every = torch.empty(0)
                parts = {}
                for index, expert in enumerate(experts):
                    rows = (group == index).nonzero()[:, 0]
                    if len(rows) and ranks.owns(index):
                        parts[index] = (rows, _logits(expert, images[rows]))
                width = next(iter(parts.values()))[1].shape[1] if parts else data.info.num_classes
                routed = torch.zeros(len(group), width, device=device)
                for rows, logits in parts.values():
                    routed[rows] = logits
            seen.append((probs.cpu(), routed.cpu(), every.cpu(), labels.cpu()))
    for module, mode in zip(modules, training, strict=True):
        module.train(mode)
    probs, routed, every, labels = (torch.cat(part) for part in zip(*seen, strict=True))
    routed, every = ranks.sum([routed, every])
    return Answers(probs, routed, every if all_experts else None, labels)


def agreement(experts: Tensor) -> float:
    """Return the share of samples for which all experts give the same answer; logits (N, K, classes)."""
    labels = experts.argmax(2)
    return float((labels == labels[:, :1]).all(1).float().mean())


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Return the share of rows whose largest score is the label's, NaN without rows."""
    return float((scores.argmax(1) == labels).float().mean()) if len(labels) else float("nan")


@torch.no_grad()
def gate_groups(
    gate: nn.Module | None, data: ImageData, ids: Tensor, device: torch.device, multiple: int = 4
) -> Tensor:
    """Return f(x; T) for the samples `ids`, unaugmented, (N, K), on the CPU."""
    stream = batches(
        data,
        ids,
        512,
        seed=0,
        words=("gate",),
        augment=False,
        device=device,
        shuffle=False,
        channels_last=True,
        multiple=multiple,
    )
    return torch.cat([gate_answers(gate, images).cpu() for images, _, _ in stream])
