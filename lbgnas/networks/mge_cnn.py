"""MGE-CNN (Zhang et al. 2019): experts in a row, each looking where the one before looked; a gate weighs them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lbgnas.networks.residual import ResNet

_THRESHOLD = 0.5
_GATE_WIDTH = 512


class Heads(NamedTuple):
    """Logits of one expert, each (batch, outputs), and its last features, (batch, channels, height, width)."""

    whole: Tensor
    part: Tensor
    both: Tensor
    features: Tensor


class Expert(nn.Module):
    """A backbone with three heads: on the mean of its features, on the maximum of part detectors, and on both."""

    def __init__(self, backbone: ResNet, outputs: int) -> None:
        super().__init__()
        self.backbone = backbone
        channels = backbone.fc.in_features
        self.detectors = nn.Conv2d(channels, channels, 1)
        self.part = nn.Linear(channels, outputs)
        self.both = nn.Linear(2 * channels, outputs)

    def forward(self, images: Tensor) -> Heads:
        """Return the logits of the heads."""
        features = self.backbone.features(images)
        mean, parts = features.mean((2, 3)), F.relu(self.detectors(features)).amax((2, 3))
        return Heads(self.backbone.fc(mean), self.part(parts), self.both(torch.cat([mean, parts], 1)), features)


class MgeCnn(nn.Module):
    """T experts in sequence and a gate: sum_t g_t(x) logits_t(x).

    Expert t + 1 sees the image cropped to where expert t found its answer: the box around the class activation
    map's values above half of its maximum, scaled to the image's size. Made for images of 448 pixels; smaller ones
    are cropped in the same way.

    Loss: CE of all heads + CE of the gated sum, which trains the gate alone + sum_{t>1} mean exp(-D_t), D_t the
    divergence of expert t from its predecessor over the wrong classes: experts are to err differently.

    Shapes: images (batch, in_channels, size, size) to logits (batch, outputs).

    Args:
        backbone: makes a new residual network.
        outputs: number of classes.
        experts: T.
    """

    def __init__(self, backbone: Callable[[], ResNet], outputs: int, experts: int = 3) -> None:
        super().__init__()
        self.experts = nn.ModuleList(Expert(backbone(), outputs) for _ in range(experts))
        self.gate = backbone()
        self.gate.fc = nn.Linear(self.gate.fc.in_features, _GATE_WIDTH)
        self.gate_head = nn.Linear(_GATE_WIDTH, experts)

    def forward(self, images: Tensor) -> Tensor:
        """Return the gated sum of the experts' logits."""
        return self._gated(images, self._heads(images))

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """One stage only."""

    def training_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of all terms."""
        every = self._heads(images)
        terms = [F.cross_entropy(logits, labels) for heads in every for logits in heads[:3]]
        terms.append(F.cross_entropy(self._gated(images, every), labels))
        for before, after in pairwise(every):
            terms.append(torch.exp(-wrong_class_divergence(after.both, before.both.detach(), labels)).mean())
        return torch.stack(terms).sum()

    def _heads(self, images: Tensor) -> list[Heads]:
        seen, found = images, []
        for index, expert in enumerate(self.experts):
            heads = expert(seen)
            found.append(heads)
            if index < len(self.experts) - 1:
                weight = expert.get_parameter("backbone.fc.weight")
                seen = cropped(images, attention(heads, weight))
        return found

    def _gated(self, images: Tensor, every: list[Heads]) -> Tensor:
        share = self.gate_head(F.relu(self.gate(images))).softmax(1)
        logits = torch.stack([heads.both.detach() for heads in every], 1)
        mixed: Tensor = (share[:, :, None] * logits).sum(1)
        return mixed


@torch.no_grad()
def attention(heads: Heads, weight: Tensor) -> Tensor:
    """Return the class activation maps of the predicted classes, scaled to [0, 1], (batch, height, width).

    Args:
        heads: of one expert.
        weight: of its first head, (outputs, channels).
    """
    chosen = weight[heads.whole.argmax(1)]
    maps = F.relu((chosen[:, :, None, None] * heads.features).sum(1))
    peak: Tensor = maps.amax((1, 2), keepdim=True)
    # Where nothing speaks for the class, the whole image is looked at.
    return torch.where(peak > 0, maps / peak.clamp_min(1e-12), torch.ones_like(maps))


@torch.no_grad()
def cropped(images: Tensor, maps: Tensor) -> Tensor:
    """Return each image's box around the map's values above half of the maximum, at the image's size.

    Args:
        images: (batch, channels, size, size).
        maps: (batch, height, width), at most 1.
    """
    inside = maps > _THRESHOLD
    ends = []
    for axis in (2, 1):  # the columns, which are left when rows are taken together, then the rows
        line = inside.any(3 - axis)
        count = line.shape[1]
        place = torch.arange(count, device=line.device)
        low = torch.where(line, place, count).amin(1) / count
        high = (torch.where(line, place, -1).amax(1) + 1) / count
        ends.append((low, high))
    (left, right), (top, bottom) = ends
    zero = torch.zeros_like(left)
    # affine_grid counts from -1 to 1: centre and half length of the box.
    across = torch.stack([right - left, zero, left + right - 1], 1)
    down = torch.stack([zero, bottom - top, top + bottom - 1], 1)
    grid = F.affine_grid(torch.stack([across, down], 1).to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def wrong_class_divergence(logits: Tensor, before: Tensor, labels: Tensor) -> Tensor:
    """Return sum over the wrong classes c of q_c log(q_c / p_c), (batch,); q of the expert before, p of this one."""
    log_p, log_q = logits.log_softmax(1), before.log_softmax(1)
    wrong = F.one_hot(labels, logits.shape[1]) == 0
    return (wrong * log_q.exp() * (log_q - log_p)).sum(1)
