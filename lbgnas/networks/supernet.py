"""The supernet: cells in which every edge is a weighted sum of its candidate operations."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from lbgnas.errors import LbgnasError
from lbgnas.networks.layout import CellPlace, build_stem, cell_places, check_size
from lbgnas.networks.recompute import recomputed
from lbgnas.operations.candidates import FactorizedReduce, relu_conv_norm
from lbgnas.operations.orders import PIXELS, Order, order_for
from lbgnas.operations.source import SourceEdges
from lbgnas.space import KINDS, Kind, SearchSpace, edge_index
from lbgnas.tangents import linear


class SearchCell(nn.Module):
    """A cell of the supernet, with partial channels and edge normalisation where the space asks for them."""

    edges_by_source: Tensor

    def __init__(self, space: SearchSpace, place: CellPlace) -> None:
        super().__init__()
        kind: Kind = "reduce" if place.reduction else "normal"
        self.nodes = space.nodes
        self.concat = space.concat
        self.partial = space.partial_channels
        self.width = place.channels // space.partial_channels
        self.reduction = place.reduction
        if place.after_reduction:
            self.preprocess0: nn.Module = FactorizedReduce(place.before_last_channels, place.channels, affine=False)
        else:
            self.preprocess0 = relu_conv_norm(place.before_last_channels, place.channels, affine=False)
        self.preprocess1 = relu_conv_norm(place.last_channels, place.channels, affine=False)
        self.rows: list[list[int]] = []
        self.sources = nn.ModuleList()
        columns = space.columns(kind)
        beside = () if space.auxiliary_skip is None else (f"auxiliary_{space.auxiliary_skip}",)
        for source in range(1 + space.nodes):
            rows = [edge_index(node, source) for node in range(max(0, source - 1), space.nodes)]
            self.rows.append(rows)
            # A shorter edge ends in none: its unused columns weigh nothing.
            listed = [space.operations[kind][row] for row in rows]
            operations = tuple((*names, *["none"] * (columns - len(names)), *beside) for names in listed)
            self.sources.append(SourceEdges(self.width, self._stride(source), operations))

        order = torch.tensor([row for rows in self.rows for row in rows])
        self.register_buffer("edges_by_source", order, persistent=False)

    def _stride(self, source: int) -> int:
        return 2 if self.reduction and source < 2 else 1

    def forward(
        self, older: Tensor, last: Tensor, mixture: Tensor, edge_weights: Tensor | None, skip_dropout: float = 0.0
    ) -> Tensor:
        """Return the concatenated nodes.

        Args:
            older: output of the cell before the last one.
            last: output of the last cell.
            mixture: (edges, candidates), rows sum to 1 (times the edge's weight where edges are normalised).
            edge_weights: (edges,), or None where every edge counts fully.
            skip_dropout: probability with which an entry of a plain skip is dropped in training.
        """
        states = [self.preprocess0(older), self.preprocess1(last)]
        height, width = (side // (2 if self.reduction else 1) for side in states[0].shape[2:])
        order = order_for(states[0], height, width)
        mixed: list[Tensor | None] = [None] * self.nodes
        passed: list[Tensor | None] = [None] * self.nodes
        counts = [len(rows) for rows in self.rows]
        mixtures = torch.split_with_sizes(mixture.index_select(0, self.edges_by_source), counts)
        for source, edges in enumerate(self.sources):
            state, rows = states[source], self.rows[source]
            fed = range(self.nodes - len(rows), self.nodes)
            outputs = edges(state[:, : self.width], mixtures[source], skip_dropout).unbind(1)
            for node, output in zip(fed, outputs, strict=True):
                mixed[node] = _added(mixed[node], output)
            if self.partial > 1:
                rest = state[:, self.width :]
                if self._stride(source) == 2:
                    rest = nn.functional.max_pool2d(rest, 2, 2)
                for node, row in zip(fed, rows, strict=True):
                    weighted = rest if edge_weights is None else _weighted(rest, edge_weights[row])
                    passed[node] = _added(passed[node], weighted)
            if source > 0:
                states.append(self._node(order, mixed[source - 1], passed[source - 1]))
        # Between cells images are channels-last, which the 1x1 convolutions of the next one want.
        return PIXELS.enter(order.join([states[index] for index in self.concat]))

    def _node(self, order: Order, mixed: Tensor | None, passed: Tensor | None) -> Tensor:
        assert mixed is not None
        # Shuffling is linear, so it is done once a node instead of once an edge.
        return mixed if passed is None else order.shuffle(order.join([mixed, passed]), self.partial)


def _weighted(x: Tensor, weight: Tensor) -> Tensor:
    return linear(lambda value: value * weight.to(x.dtype), x)


def _added(total: Tensor | None, term: Tensor) -> Tensor:
    return term if total is None else total + term


class Supernet(nn.Module):
    """A network over a whole search space; its architecture parameters are parameters named alphas_* and betas_*.

    Attributes:
        skip_dropout: probability with which entries of plain skips are dropped in training (P-DARTS).
        auxiliary_weight: beta, the weight of the auxiliary skips of a space that has them (DARTS-).
        recompute: keep for the backward what enters each cell alone, and compute the cell a second time.

    Args:
        space: the search space.
        num_cells: L; cells L // 3 and 2 L // 3 reduce.
        channels: C of the first cell, a multiple of 2 * partial channels.
        num_classes: width of the output.
        in_channels: of the images.
        stem_multiplier: the stem is this many times as wide as the first cell.

    Shapes: images (batch, in_channels, height, width) to logits (batch, num_classes).

    Raises:
        LbgnasError: for a number below 1, and for channels that cannot be split as the space wants them.
    """

    def __init__(
        self,
        space: SearchSpace,
        num_cells: int,
        channels: int,
        num_classes: int,
        in_channels: int = 3,
        stem_multiplier: int = 3,
    ) -> None:
        super().__init__()
        _check_numbers(
            space,
            num_cells=num_cells,
            channels=channels,
            num_classes=num_classes,
            in_channels=in_channels,
            stem_multiplier=stem_multiplier,
        )
        self.space = space
        self.num_cells = num_cells
        self.skip_dropout = 0.0
        self.auxiliary_weight = 1.0
        self.recompute = False
        width = stem_multiplier * channels
        self.stem = build_stem(space.stem, in_channels, width)
        concats = (len(space.concat), len(space.concat))
        points = space.reduction_points
        places = cell_places(num_cells, channels, width, concats, space.stem == "imagenet", points)
        self.cells = nn.ModuleList(SearchCell(space, place) for place in places)
        self.classifier = nn.Linear(places[-1].channels * len(space.concat), num_classes)
        for kind in KINDS:
            unused = [[column >= width for column in range(space.columns(kind))] for width in space.widths(kind)]
            if any(map(any, unused)):
                self.register_buffer(f"unused_{kind}", torch.tensor(unused), persistent=False)
        for name, shape in space.architecture_shapes.items():
            self.register_parameter(name, nn.Parameter(1e-3 * torch.randn(shape)))

    def architecture_parameters(self) -> dict[str, nn.Parameter]:
        """Return A: alphas of normal and reduction cells, then betas where the space has them."""
        return {name: self.get_parameter(name) for name in self.space.architecture_shapes}

    def weight_parameters(self) -> dict[str, nn.Parameter]:
        """Return S: every parameter that is not part of the architecture."""
        own = self.space.architecture_shapes
        return {name: value for name, value in self.named_parameters() if name not in own}

    def mixtures(self, kind: Kind) -> tuple[Tensor, Tensor | None]:
        """Return how one kind of cell weighs its candidates, (edges, candidates), and its edges, (edges,) or None.

        softmax(alpha) per edge; with edge normalisation times softmax(beta) over the edges that enter one node. The
        auxiliary skip, where there is one, is the last column.
        """
        alphas: Tensor = getattr(self, f"alphas_{kind}")
        unused: Tensor | None = getattr(self, f"unused_{kind}", None)
        mixture = (alphas if unused is None else alphas.masked_fill(unused, float("-inf"))).softmax(-1)
        edge_weights = None
        if self.space.edge_normalisation:
            betas: Tensor = getattr(self, f"betas_{kind}")
            groups = torch.split(betas, [2 + node for node in range(self.space.nodes)])
            edge_weights = torch.cat([group.softmax(0) for group in groups])
            mixture = mixture * edge_weights[:, None]
        if self.space.auxiliary_skip is not None:
            mixture = torch.cat([mixture, mixture.new_full((len(mixture), 1), self.auxiliary_weight)], 1)
        return mixture, edge_weights

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        space = self.space
        check_size(images.shape[2], images.shape[3], self.num_cells, space.stem, space.reduction_points)
        mixtures = {kind: self.mixtures(kind) for kind in KINDS}
        older, last = self.stem(images)
        for cell in self.cells:
            mixture, edge_weights = mixtures["reduce" if cell.reduction else "normal"]
            run = partial(recomputed, cell) if self.recompute else cell
            older, last = last, run(older, last, mixture, edge_weights, skip_dropout=self.skip_dropout)
        logits: Tensor = self.classifier(last.mean((2, 3)))
        return logits


def _check_numbers(space: SearchSpace, **given: int) -> None:
    for name, value in given.items():
        if value < 1:
            raise LbgnasError(f"supernet: {name} is {value}, at least 1 is needed")
    # Reductions split a cell's channels in halves, partial channels into that many parts.
    step = space.channel_step
    if given["channels"] % step:
        near = max(step, round(given["channels"] / step) * step)
        raise LbgnasError(
            f"supernet: channels is {given['channels']}, search space {space.name!r} needs a multiple of {step}; "
            f"the nearest is {near}"
        )
