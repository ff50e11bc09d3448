"""All edges that leave one state of a supernet's cell, run as one.

Edges that start at the same state see the same input: their convolutions run as one grouped operation over
(edges x channels), and their pools are computed once. The parameters are those of one module per edge and operation,
stacked edge by edge.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lbgnas.batch_statistics import running_statistics_move
from lbgnas.operations.candidates import build_operation
from lbgnas.operations.functional import (
    average_pool,
    batch_norm,
    depthwise,
    grouped_pointwise,
    max_pool,
    strided_pointwise,
)


class ConvolutionKind(NamedTuple):
    """How a convolutional candidate is built: `stages` times (ReLU, depthwise, pointwise, batch norm)."""

    kernel: int
    dilation: int
    stages: int


CONVOLUTIONS = {
    "sep_conv_3x3": ConvolutionKind(3, 1, 2),
    "sep_conv_5x5": ConvolutionKind(5, 1, 2),
    "sep_conv_7x7": ConvolutionKind(7, 1, 2),
    "dil_conv_3x3": ConvolutionKind(3, 2, 1),
    "dil_conv_5x5": ConvolutionKind(5, 2, 1),
}
"""Separable ones first: their first stage feeds a second one, and slices stay contiguous."""

POOLS = {"max_pool_3x3": max_pool, "avg_pool_3x3": average_pool}

SKIPS = {"skip_connect": "skip", "auxiliary_skip": "auxiliary", "auxiliary_conv": "auxiliary"}
"""Operations that with stride 2 are a factorised reduction, and what their tensors are called."""


class SourceEdges(nn.Module):
    """The edges from one state to every later node, each a softmax-weighted sum of its candidate operations.

    Args:
        channels: C of the state; every operation keeps it.
        stride: 1, or 2 for the inputs of a reduction cell.
        operations: for each edge, its candidates in the order of the mixture's columns. Besides those of a search
            space there are auxiliary_skip (identity) and auxiliary_conv (1x1 convolution that starts as identity).

    Shapes: input (batch, C, height, width), `mixture` (edges, candidates), output (batch, edges, C, height, width)
    with height and width divided by the stride.
    """

    mean_first: Tensor
    var_first: Tensor
    mean_second: Tensor
    var_second: Tensor
    mean_skip: Tensor
    var_skip: Tensor

    def __init__(self, channels: int, stride: int, operations: tuple[tuple[str, ...], ...]) -> None:
        super().__init__()
        self.channels = channels
        self.stride = stride
        self.operations = operations
        self.num_edges = len(operations)
        self.places = {
            name: [(edge, names.index(name)) for edge, names in enumerate(operations) if name in names]
            for name in dict.fromkeys(name for names in operations for name in names)
        }
        self.convolutions = [name for name in CONVOLUTIONS if name in self.places]
        self.separable = [name for name in self.convolutions if CONVOLUTIONS[name].stages == 2]
        self.pools = [name for name in POOLS if name in self.places]
        self.skips = [name for name in SKIPS if name in self.places]
        self.single = [name for name in self.places if name not in (*CONVOLUTIONS, *POOLS, *SKIPS, "none", "noise")]
        for name in self.convolutions:
            kernel = CONVOLUTIONS[name].kernel
            width = len(self.places[name]) * channels
            self.register_parameter(f"{name}_depthwise_first", _convolution(width, 1, kernel))
            if name in self.separable:
                self.register_parameter(f"{name}_depthwise_second", _convolution(width, 1, kernel))
        self.blocks_first = sum(len(self.places[name]) for name in self.convolutions)
        self.blocks_second = sum(len(self.places[name]) for name in self.separable)
        if self.blocks_first:
            self.pointwise_first = _matrices(self.blocks_first, channels)
            _register_statistics(self, "first", self.blocks_first * channels)
        if self.blocks_second:
            self.pointwise_second = _matrices(self.blocks_second, channels)
            _register_statistics(self, "second", self.blocks_second * channels)
        for name in self.pools:
            _register_statistics(self, name, len(self.places[name]) * channels)
        if stride == 2:
            for name in self.skips:
                width = len(self.places[name]) * (channels // 2)
                self.register_parameter(f"{SKIPS[name]}_even", _convolution(width, channels, 1))
                self.register_parameter(f"{SKIPS[name]}_odd", _convolution(width, channels, 1))
                _register_statistics(self, SKIPS[name], len(self.places[name]) * channels)
        elif "auxiliary_conv" in self.skips:
            self.auxiliary_pointwise = nn.Parameter(torch.eye(channels).repeat(self.num_edges, 1, 1))
        self.modules_of = nn.ModuleDict(
            {
                name: nn.ModuleList(build_operation(name, channels, stride, affine=False) for _ in self.places[name])
                for name in self.single
            }
        )

    def forward(self, x: Tensor, mixture: Tensor, skip_dropout: float = 0.0) -> Tensor:
        """Return what every edge passes on, (batch, edges, C, height, width).

        Args:
            x: the state.
            mixture: the weight of each candidate on each edge.
            skip_dropout: probability with which an entry of a plain skip is dropped in training.
        """
        active = torch.relu(x) if self.blocks_first or (self.skips and self.stride == 2) else x
        blocks: list[tuple[str, Tensor]] = []
        if self.blocks_first:
            blocks += self._convolve(active, mixture)
        plain: list[tuple[str, Tensor]] = []
        for name in self.skips:
            if self.stride == 2:
                blocks.append((name, self._reduce(name, active, mixture)))
            elif name == "auxiliary_conv":
                spread = grouped_pointwise(self._spread(x, self.num_edges), self.auxiliary_pointwise)
                blocks.append((name, spread * self._scale(name, mixture)[:, None, None]))
            elif name == "skip_connect" and self.training and skip_dropout > 0:
                blocks.append((name, self._dropped(x, mixture, skip_dropout)))
            else:
                plain.append((name, x))
        if "noise" in self.places:
            shape = (x.shape[0], len(self.places["noise"]) * self.channels, *_strided(x, self.stride))
            drawn = torch.randn(shape, dtype=x.dtype, device=x.device)
            blocks.append(("noise", drawn * self._scale("noise", mixture)[:, None, None]))
        for name in self.single:
            joined = torch.cat([module(x) for module in self.modules_of[name]], 1)  # type: ignore[attr-defined]
            blocks.append((name, joined * self._scale(name, mixture)[:, None, None]))
        for name in self.pools:
            pooled = POOLS[name](x, self.stride)
            if self.training:
                plain.append((name, self._normalise_pool(name, pooled)))
            else:
                mean, var = self._statistics(name)
                spread = self._spread(pooled, len(self.places[name]))
                blocks.append((name, batch_norm(spread, mean, var, False, self._scale(name, mixture))))
        total = self._mix(plain, mixture) if plain else None
        for name, block in blocks:
            edges = [edge for edge, _ in self.places[name]]
            shaped = block.reshape(block.shape[0], len(edges), self.channels, *block.shape[2:])
            if len(edges) < self.num_edges:
                shape = (block.shape[0], self.num_edges, *shaped.shape[2:])
                index = torch.tensor(edges, device=x.device)
                shaped = shaped.new_zeros(shape).index_add(1, index, shaped)
            total = shaped if total is None else total + shaped
        if total is None:  # nothing but "none" on these edges
            total = x.new_zeros((x.shape[0], self.num_edges, self.channels, *_strided(x, self.stride)))
        return total

    def _convolve(self, active: Tensor, mixture: Tensor) -> list[tuple[str, Tensor]]:
        spread = {count: self._spread(active, count) for count in {len(self.places[n]) for n in self.convolutions}}
        first = [
            depthwise(
                spread[len(self.places[name])],
                getattr(self, f"{name}_depthwise_first"),
                self.stride,
                CONVOLUTIONS[name].dilation,
            )
            for name in self.convolutions
        ]
        scale = [self._scale(name, mixture) for name in self.convolutions]
        inner = self.blocks_second * self.channels
        scale_first = torch.cat([mixture.new_ones(inner), *scale[len(self.separable) :]])
        hidden = grouped_pointwise(_join(first), self.pointwise_first)
        hidden = batch_norm(hidden, self.mean_first, self.var_first, self.training, scale_first)
        outputs = list(zip(self.convolutions[len(self.separable) :], self._split(hidden, False), strict=True))
        if not self.separable:
            return outputs
        again = [
            depthwise(block, getattr(self, f"{name}_depthwise_second"), 1)
            for name, block in zip(self.separable, self._split(torch.relu(hidden[:, :inner]), True), strict=True)
        ]
        second = grouped_pointwise(_join(again), self.pointwise_second)
        scale_second = torch.cat(scale[: len(self.separable)])
        second = batch_norm(second, self.mean_second, self.var_second, self.training, scale_second)
        return outputs + list(zip(self.separable, self._split(second, True), strict=True))

    def _split(self, hidden: Tensor, separable: bool) -> list[Tensor]:
        names = [name for name in self.convolutions if (name in self.separable) == separable]
        widths = [len(self.places[name]) * self.channels for name in names]
        if not names:
            return []
        return list(torch.split(hidden[:, hidden.shape[1] - sum(widths) :], widths, 1))

    def _reduce(self, name: str, active: Tensor, mixture: Tensor) -> Tensor:
        edges, kind = len(self.places[name]), SKIPS[name]
        even = strided_pointwise(active, getattr(self, f"{kind}_even"), 0)
        odd = strided_pointwise(active, getattr(self, f"{kind}_odd"), 1)
        halves = [half.reshape(half.shape[0], edges, -1, *half.shape[2:]) for half in (even, odd)]
        joined = torch.cat(halves, 2).flatten(1, 2)
        return batch_norm(joined, *self._statistics(kind), self.training, self._scale(name, mixture))

    def _dropped(self, x: Tensor, mixture: Tensor, prob: float) -> Tensor:
        """Drop entries of the plain skip on each of its edges, each edge by a draw of its own."""
        weights = self._weights("skip_connect", mixture)
        shape = (x.shape[0], len(weights), *x.shape[1:])
        kept = torch.rand(shape, dtype=x.dtype, device=x.device) >= prob
        factor = weights[:, None, None, None] / (1 - prob)
        return (x[:, None] * kept * factor).flatten(1, 2)

    def _normalise_pool(self, name: str, pooled: Tensor) -> Tensor:
        """Normalise a pool once for all its edges: they share the batch's statistics."""
        seen_mean, seen_var = pooled.new_zeros(self.channels), pooled.new_ones(self.channels)
        # Momentum 1 makes the fused kernel hand out the batch's own mean and unbiased variance.
        output = torch.batch_norm(pooled, None, None, seen_mean, seen_var, True, 1.0, 1e-5, False)
        if running_statistics_move() and pooled.numel() > self.channels:  # one value has no variance
            mean, var = self._statistics(name)
            with torch.no_grad():
                mean.view(-1, self.channels).lerp_(seen_mean.to(mean.dtype), 0.1)
                var.view(-1, self.channels).lerp_(seen_var.to(var.dtype), 0.1)
        return output

    def _mix(self, plain: list[tuple[str, Tensor]], mixture: Tensor) -> Tensor:
        """Sum what edges share, weighted for each edge, as one product of matrices."""
        columns = []
        for name, _ in plain:
            weights = self._weights(name, mixture)
            if len(weights) < self.num_edges:
                index = torch.tensor([edge for edge, _ in self.places[name]], device=mixture.device)
                weights = weights.new_zeros(self.num_edges).index_add(0, index, weights)
            columns.append(weights)
        stacked = torch.stack([value for _, value in plain], 1)
        weights = torch.stack(columns, 1).to(stacked.dtype)
        return torch.einsum("ek,nkchw->nechw", weights, stacked)

    def _weights(self, name: str, mixture: Tensor) -> Tensor:
        places = self.places[name]
        columns = {column for _, column in places}
        if len(places) == self.num_edges and len(columns) == 1:
            return mixture[:, columns.pop()]
        return torch.stack([mixture[edge, column] for edge, column in places])

    def _scale(self, name: str, mixture: Tensor) -> Tensor:
        weights = self._weights(name, mixture)
        return weights[:, None].expand(-1, self.channels).reshape(-1)

    def _statistics(self, name: str) -> tuple[Tensor, Tensor]:
        return getattr(self, f"mean_{name}"), getattr(self, f"var_{name}")

    def _spread(self, x: Tensor, count: int) -> Tensor:
        if count == 1:
            return x
        spread = x[:, None].expand(-1, count, -1, -1, -1).flatten(1, 2)
        return spread.contiguous(memory_format=torch.channels_last)


def _strided(x: Tensor, stride: int) -> list[int]:
    return [-(-side // stride) for side in x.shape[2:]]


def _convolution(out_channels: int, in_channels: int, kernel: int) -> nn.Parameter:
    weight = torch.empty(out_channels, in_channels, kernel, kernel)
    bound = (in_channels * kernel * kernel) ** -0.5  # torch's default for a convolution
    return nn.Parameter(weight.uniform_(-bound, bound))


def _matrices(groups: int, channels: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(groups, channels, channels).uniform_(-(channels**-0.5), channels**-0.5))


def _register_statistics(module: nn.Module, name: str, width: int) -> None:
    module.register_buffer(f"mean_{name}", torch.zeros(width))
    module.register_buffer(f"var_{name}", torch.ones(width))


def _join(blocks: list[Tensor]) -> Tensor:
    return torch.cat(blocks, 1) if len(blocks) > 1 else blocks[0]
