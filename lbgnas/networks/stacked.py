"""The evaluation network: a genotype's cells stacked, trained from scratch."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lbgnas.genotype import CellGenotype
from lbgnas.networks.layout import THIRDS, CellPlace, Stem, build_stem, cell_places, check_size, reduction_cells
from lbgnas.operations.candidates import FactorizedReduce, build_operation, relu_conv_norm
from lbgnas.operations.channels import join_channels


class Output(NamedTuple):
    """Logits (batch, classes), and those of the auxiliary head in training or None."""

    logits: Tensor
    auxiliary: Tensor | None


def drop_path(x: Tensor, prob: float) -> Tensor:
    """Set whole samples to zero with probability `prob` and scale the others by 1 / (1 - prob)."""
    kept = torch.rand(x.shape[0], 1, 1, 1, device=x.device) >= prob
    return x * (kept / (1 - prob)).to(x.dtype)


class StackedCell(nn.Module):
    """One cell of a genotype: each node is the sum of two operations on earlier states."""

    def __init__(self, genotype: CellGenotype, place: CellPlace) -> None:
        super().__init__()
        kind = "reduce" if place.reduction else "normal"
        pairs, self.concat = getattr(genotype, kind), getattr(genotype, f"{kind}_concat")
        if place.after_reduction:
            self.preprocess0: nn.Module = FactorizedReduce(place.before_last_channels, place.channels)
        else:
            self.preprocess0 = relu_conv_norm(place.before_last_channels, place.channels)
        self.preprocess1 = relu_conv_norm(place.last_channels, place.channels)
        self.inputs = [source for _, source in pairs]
        self.operations = nn.ModuleList(
            build_operation(name, place.channels, 2 if place.reduction and source < 2 else 1) for name, source in pairs
        )

    def forward(self, older: Tensor, last: Tensor, drop_path_prob: float) -> Tensor:
        """Return the concatenated states; paths other than plain skips are dropped in training."""
        states = [self.preprocess0(older), self.preprocess1(last)]
        outputs = []
        for position, (operation, source) in enumerate(zip(self.operations, self.inputs, strict=True)):
            value = operation(states[source])
            if self.training and drop_path_prob > 0 and not isinstance(operation, nn.Identity):
                value = drop_path(value, drop_path_prob)
            outputs.append(value)
            if position % 2:
                states.append(outputs[-2] + outputs[-1])
        return join_channels(*(states[index] for index in self.concat))


class AuxiliaryHead(nn.Module):
    """A second classifier on the last reduction cell, used in training only.

    Args:
        channels: of that cell's output.
        num_classes: width of the output.
        stem: the average pool has stride 3 after the CIFAR stem and 2 after the ImageNet one.
        second_norm: whether a batch norm follows the second convolution; after the ImageNet stem DARTS and PC-DARTS
            leave it out.
    """

    def __init__(self, channels: int, num_classes: int, stem: Stem, second_norm: bool) -> None:
        super().__init__()
        self.stride = 3 if stem == "cifar" else 2
        self.conv_1 = nn.Conv2d(channels, 128, 1, bias=False)
        self.norm_1 = nn.BatchNorm2d(128)
        self.conv_2 = nn.Conv2d(128, 768, 2, bias=False)
        self.norm_2: nn.Module = nn.BatchNorm2d(768) if second_norm else nn.Identity()
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the auxiliary logits."""
        x = F.relu(x)
        if min(x.shape[2:]) >= 5 + self.stride:
            x = F.avg_pool2d(x, 5, self.stride, 0, count_include_pad=False)
        else:  # images smaller than the published ones: pool to the 2x2 that the next convolution needs
            x = F.adaptive_avg_pool2d(x, 2)
        x = F.relu(self.norm_2(self.conv_2(F.relu(self.norm_1(self.conv_1(x))))))
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class StackedNetwork(nn.Module):
    """The network of one expert's genotype.

    Args:
        genotype: the cells.
        num_cells: L.
        channels: C of the first cell.
        num_classes: width of the output.
        in_channels: of the images.
        auxiliary: whether to build the auxiliary head.
        stem: "cifar" or "imagenet".
        auxiliary_norm: the auxiliary head's second batch norm; by default there after the CIFAR stem only.
        points: where cells reduce, as fractions of the depth; the auxiliary head follows the last one.

    Shapes: images (batch, in_channels, height, width) to `Output`.

    Example:
        >>> from lbgnas.genotype import published
        >>> net = StackedNetwork(published("DARTS_V2").experts[0], num_cells=5, channels=4, num_classes=10)
        >>> net(torch.zeros(2, 3, 16, 16)).logits.shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        genotype: CellGenotype,
        num_cells: int,
        channels: int,
        num_classes: int,
        in_channels: int = 3,
        auxiliary: bool = False,
        stem: Stem = "cifar",
        auxiliary_norm: bool | None = None,
        points: tuple[Fraction, ...] = THIRDS,
    ) -> None:
        super().__init__()
        self.num_cells = num_cells
        self.points = points
        self.stem_kind: Stem = stem
        self.drop_path_prob = 0.0
        width = 3 * channels if stem == "cifar" else channels
        self.stem = build_stem(stem, in_channels, width)
        concats = (len(genotype.normal_concat), len(genotype.reduce_concat))
        places = cell_places(num_cells, channels, width, concats, stem == "imagenet", points)
        self.cells = nn.ModuleList(StackedCell(genotype, place) for place in places)
        widths = [place.channels * concats[place.reduction] for place in places]
        self.auxiliary_cell = reduction_cells(num_cells, points)[-1]
        self.auxiliary_head: AuxiliaryHead | None = None
        if auxiliary:
            second = stem == "cifar" if auxiliary_norm is None else auxiliary_norm
            self.auxiliary_head = AuxiliaryHead(widths[self.auxiliary_cell], num_classes, stem, second)
        self.classifier = nn.Linear(widths[-1], num_classes)
        # The quicker order in memory, and one order wherever it is loaded: another one may round differently.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Output:
        """Return logits, and auxiliary logits in training where there is a head."""
        check_size(images.shape[2], images.shape[3], self.num_cells, self.stem_kind, self.points)
        older, last = self.stem(images)
        auxiliary = None
        for index, cell in enumerate(self.cells):
            older, last = last, cell(older, last, self.drop_path_prob)
            if index == self.auxiliary_cell and self.auxiliary_head is not None and self.training:
                auxiliary = self.auxiliary_head(last)
        return Output(self.classifier(last.mean((2, 3))), auxiliary)
