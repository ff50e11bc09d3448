"""All edges that leave one state of a supernet's cell, run as one.

Edges that start at the same state see the same input: their convolutions run as one grouped operation over
(edges x channels), and their pools are computed once. The parameters are those of one module per edge and operation,
stacked edge by edge.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lbgnas.batch_statistics import running_statistics_move, statistics_composed, statistics_rows
from lbgnas.operations.candidates import build_operation
from lbgnas.operations.normalised import normalised
from lbgnas.operations.orders import Kernels, Order, Way, order_for
from lbgnas.operations.products import EPS, average, fixed, pixels_first, products
from lbgnas.precision import exact, exact_type
from lbgnas.tangents import inverse_root, linear


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

POOLS = ("max_pool_3x3", "avg_pool_3x3")

SKIPS = {"skip_connect": "skip", "auxiliary_skip": "auxiliary", "auxiliary_conv": "auxiliary"}
"""Operations that with stride 2 are a factorised reduction, and what their tensors are called."""


class Term(NamedTuple):
    """What one operation adds to its edges: scale * batch norm of (weight @ block), (edges, C, positions).

    Attributes:
        name: of the operation.
        weight: (edges, C, channels in).
        mean, var: running statistics, (edges, C, 1).
        scale: (edges,), or None for 1.
        block: (edges, channels in, positions).
    """

    name: str
    weight: Tensor
    mean: Tensor
    var: Tensor
    scale: Tensor | None
    block: Tensor


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
        self.edges = list(range(len(operations)))
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
        # What is computed here asks for the batch-statistics policy itself, and a tensor function costs several
        # times as much where a context looks at every one of them.
        with torch._C.DisableTorchFunction():
            x, images = self._together(x, mixture, skip_dropout)
        for name in self.single:
            outputs = torch.stack([module(x) for module in self.modules_of[name]], 1)  # type: ignore[attr-defined]
            images = self._on_edges(images, name, outputs * _per_edge(self._weights(name, mixture), outputs))
        if images is None:  # nothing but "none" on these edges
            height, width = (-(-side // self.stride) for side in x.shape[2:])
            images = x.new_zeros((len(x), self.num_edges, self.channels, height, width))
        return images

    def _together(self, x: Tensor, mixture: Tensor, skip_dropout: float) -> tuple[Tensor, Tensor | None]:
        """Return the state as it is read here, and what all operations but the single ones pass on, if any."""
        batch, _, height, width = x.shape
        order = order_for(x, height, width)
        x = order.enter(x)
        size = [-(-side // self.stride) for side in (height, width)]
        active = torch.relu(x) if self.blocks_first or (self.skips and self.stride == 2) else x
        terms: list[Term] = []
        if self.blocks_first:
            terms += self._convolve(order, active, mixture, size)
        if self.stride == 2:
            terms += [self._reduce(order, name, active, mixture) for name in self.skips]
        total = self._summed(order, batch, terms)
        dropped = skip_dropout if self.training and self.stride == 1 else 0.0
        plain = []
        for name in self.skips if self.stride == 1 else ():
            if name == "auxiliary_conv":
                total = self._added_pointwise(total, order.blocks(x, 1), self._weights(name, mixture))
            elif name != "skip_connect" or dropped == 0:
                plain.append((name, order.blocks(x, 1)))
        if self.pools:
            plain += self._pool(order, x)
        if plain and (self.training or not self.pools):
            total = self._mix(total, plain, mixture)
        elif plain:
            total = self._mix_frozen(total, plain, mixture)
        images = None
        if total is not None:
            images = order.images(total, batch, *size)
            after = order_for(x, *size)
            if after is not order:
                images = torch.unflatten(after.enter(images.flatten(1, 2)), 1, (self.num_edges, -1))
        if dropped and "skip_connect" in self.skips:
            images = self._on_edges(images, "skip_connect", self._dropped(x, mixture, dropped))
        if "noise" in self.places:
            shape = (batch, len(self.places["noise"]), self.channels, *size)
            drawn = torch.randn(shape, dtype=x.dtype, device=x.device)
            images = self._on_edges(images, "noise", drawn * _per_edge(self._weights("noise", mixture), drawn))
        return x, images

    def _on_edges(self, images: Tensor | None, name: str, added: Tensor) -> Tensor:
        """Add images (batch, edges that hold the operation, C, height, width) to those of all edges."""
        places = [edge for edge, _ in self.places[name]]
        if places == self.edges:
            return added if images is None else images + added
        if images is None:
            images = added.new_zeros(()).expand(added.shape[0], self.num_edges, *added.shape[2:])
        return images.index_add(1, torch.tensor(places, device=added.device), added)

    def _added_pointwise(self, total: Tensor | None, block: Tensor, weights: Tensor) -> Tensor:
        matrices = linear(lambda value: value * weights[:, None, None], self.auxiliary_pointwise)
        bias = block.new_zeros(self.num_edges, self.channels, 1)
        added = products(bias, matrices, block.expand(self.num_edges, -1, -1), apart=True)
        return added if total is None else total + added

    def _dropped(self, x: Tensor, mixture: Tensor, prob: float) -> Tensor:
        """Drop entries of the plain skip on each of its edges, each edge by a draw of its own."""
        weights = self._weights("skip_connect", mixture)
        shape = (x.shape[0], len(weights), *x.shape[1:])
        kept = torch.rand(shape, dtype=x.dtype, device=x.device) >= prob
        return x[:, None] * kept * _per_edge(weights / (1 - prob), x)

    def _convolve(self, order: Order, active: Tensor, mixture: Tensor, size: list[int]) -> list[Term]:
        batch, inner = len(active), len(self.separable)
        blocks = order.first(active, [self._kernels(name, "first") for name in self.convolutions], self.stride)
        terms = [
            Term(name, *part, self._weights(name, mixture), block)
            for name, part, block in zip(
                self.convolutions, self._parts("first", self.convolutions), blocks, strict=True
            )
        ]
        if not inner:
            return terms
        hidden = self._applied(order, batch, [term._replace(scale=None) for term in terms[:inner]], relu=True)
        parts = self._parts("second", self.separable)
        for place, (name, part) in enumerate(zip(self.separable, parts, strict=True)):
            block = order.second(hidden[place], self._kernels(name, "second"), batch, *size)
            terms[place] = Term(name, *part, terms[place].scale, block)
        return terms

    def _kernels(self, name: str, stage: str) -> Kernels:
        return Kernels(getattr(self, f"{name}_depthwise_{stage}"), CONVOLUTIONS[name].dilation)

    def _parts(self, stage: str, names: list[str]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return the pointwise weights, running means and variances of each kind."""
        counts = [len(self.places[name]) for name in names]
        weights: Tensor = getattr(self, f"pointwise_{stage}")
        mean, var = (value.view(-1, self.channels, 1) for value in self._statistics(stage))
        return list(
            zip(
                torch.split_with_sizes(weights, counts),
                torch.split_with_sizes(mean, counts),
                torch.split_with_sizes(var, counts),
                strict=True,
            )
        )

    def _reduce(self, order: Order, name: str, active: Tensor, mixture: Tensor) -> Term:
        edges, channels, kind = len(self.places[name]), self.channels, SKIPS[name]
        joined = order.join([active[:, :, ::2, ::2], active[:, :, 1::2, 1::2]])
        even = F.pad(getattr(self, f"{kind}_even").view(edges, -1, channels), (0, channels))
        odd = F.pad(getattr(self, f"{kind}_odd").view(edges, -1, channels), (channels, 0))
        mean, var = (value.view(-1, channels, 1) for value in self._statistics(kind))
        block = order.blocks(joined, 1).expand(edges, -1, -1)
        return Term(name, torch.cat([even, odd], 1), mean, var, self._weights(name, mixture), block)

    def _applied(self, order: Order, batch: int, terms: list[Term], relu: bool) -> list[Tensor]:
        """Convolve, normalise and scale; rectify each kind, or sum all of them."""
        blocks = [term.block for term in terms]
        scales = [term.scale for term in terms if term.scale is not None]
        scale = _join(scales)[:, None, None] if scales else None
        weight = _join([term.weight for term in terms])
        if self.training:
            way = Way(relu, order, batch, statistics_rows(batch))
            outputs, centre, variance = normalised(way, weight, scale, blocks, plain=statistics_composed())
            if centre is None or variance is None:
                return outputs
            counts = [len(term.weight) for term in terms]
            values = blocks[0].shape[2] // batch * way.rows
            seen, spread = (list(torch.split_with_sizes(value, counts)) for value in (centre, variance))
            self._move([term.mean for term in terms], [term.var for term in terms], seen, spread, values)
            return outputs
        weight, bias = fixed(weight, _join([t.mean for t in terms]), _join([t.var for t in terms]), scale)
        counts = [len(block) for block in blocks]
        pairs = list(zip(torch.split_with_sizes(weight, counts), blocks, strict=True))
        if relu:
            return [
                torch.relu(products(b, *pair, apart=False))
                for b, pair in zip(torch.split_with_sizes(bias, counts), pairs, strict=True)
            ]
        return [
            products(
                torch.unflatten(bias, 0, (len(terms), -1)).sum(0), *(p for pair in pairs for p in pair), apart=True
            )
        ]

    def _move(
        self, means: list[Tensor], variances: list[Tensor], seen: list[Tensor], spread: list[Tensor], values: int
    ) -> None:
        if not running_statistics_move() or values < 2:  # one value has no variance
            return
        with torch.no_grad():
            unbiased = torch._foreach_mul(spread, values / (values - 1))
            moved = means + variances
            new = [value.to(old.dtype).expand_as(old) for value, old in zip([*seen, *unbiased], moved, strict=True)]
            torch._foreach_lerp_(moved, new, 0.1)

    def _summed(self, order: Order, batch: int, terms: list[Term]) -> Tensor | None:
        """Return what all terms give to each edge; those that stand on every edge are summed by one product."""
        everywhere = [
            term
            for term in terms
            if [edge for edge, _ in self.places[term.name]] == self.edges and term.block.shape[1] == self.channels
        ]
        total = self._applied(order, batch, everywhere, relu=False)[0] if everywhere else None
        for term in terms:
            if any(term is other for other in everywhere):
                continue
            (output,) = self._applied(order, batch, [term], relu=False)
            places = [edge for edge, _ in self.places[term.name]]
            if places == self.edges:
                total = output if total is None else total + output
                continue
            if total is None:
                total = output.new_zeros(()).expand(self.num_edges, *output.shape[1:])
            total = total.index_add(0, torch.tensor(places, device=output.device), output)
        return total

    def _pool(self, order: Order, x: Tensor) -> list[tuple[str, Tensor]]:
        """Pool once for all edges; in training normalise, for they share the batch's statistics too."""
        pools = {"max_pool_3x3": order.max_pool, "avg_pool_3x3": order.average_pool}
        pooled = [(name, order.blocks(pools[name](x, self.stride), 1)) for name in self.pools]
        return [(name, self._normal(order, name, block, len(x))) for name, block in pooled] if self.training else pooled

    def _normal(self, order: Order, name: str, block: Tensor, batch: int) -> Tensor:
        mean, var = (value.view(-1, self.channels, 1) for value in self._statistics(name))
        rows = statistics_rows(batch)
        values = block.shape[2] // batch * rows
        if rows == batch and not statistics_composed():
            kind = exact_type(block)
            seen_mean, seen_var = block.new_zeros(self.channels, dtype=kind), block.new_ones(self.channels, dtype=kind)
            table = block[0].T if pixels_first(block) else block
            # Momentum 1 makes the fused kernel hand out the batch's own mean and unbiased variance.
            normal = torch.batch_norm(table, None, None, seen_mean, seen_var, True, 1.0, EPS, False)
            seen_var = seen_var * ((values - 1) / values)
            self._move([mean], [var], [seen_mean[:, None]], [seen_var[:, None]], values)
            return normal.T[None] if pixels_first(block) else normal
        seen_mean = average(order.own(block, batch, rows))
        centred = exact(block) - seen_mean
        spread = order.own(centred, batch, rows)
        seen_var = (spread * spread).mean(2, keepdim=True)
        self._move([mean], [var], [seen_mean], [seen_var], values)
        return (centred * inverse_root(seen_var, EPS)).to(block.dtype)

    def _mix(self, total: Tensor | None, plain: list[tuple[str, Tensor]], mixture: Tensor) -> Tensor:
        """Add what edges share, weighted for each edge, as one product of matrices."""
        columns = []
        for name, _ in plain:
            weights = self._weights(name, mixture)
            if len(weights) < self.num_edges:
                index = torch.tensor([edge for edge, _ in self.places[name]], device=mixture.device)
                weights = weights.new_zeros(self.num_edges).index_add(0, index, weights)
            columns.append(weights)
        like = plain[0][1]
        across = pixels_first(like)
        stacked = torch.cat([_flat(value, across) for _, value in plain])
        weights = torch.stack(columns, 1).to(stacked.dtype)
        if total is None:
            mixed = linear(lambda values: weights @ values, stacked)
        else:
            mixed = linear(lambda sums, values: torch.addmm(sums, weights, values), _flat(total, across), stacked)
        _, channels, positions = like.shape
        if across:
            return mixed.view(-1, positions, channels).transpose(1, 2)
        return mixed.view(-1, channels, positions)

    def _mix_frozen(self, total: Tensor | None, plain: list[tuple[str, Tensor]], mixture: Tensor) -> Tensor:
        """Add what edges share where each has running statistics of its own."""
        for name, block in plain:
            weights = self._weights(name, mixture)[:, None, None]
            if name in self.pools:
                mean, var = (value.view(-1, self.channels, 1) for value in self._statistics(name))
                block = (block - mean) * (var + EPS).rsqrt()
            if total is None:
                total = block.new_zeros(1).expand(self.num_edges, *block.shape[1:])
            index = torch.tensor([edge for edge, _ in self.places[name]], device=block.device)
            total = total.index_add(0, index, (weights * block).to(total.dtype))
        assert total is not None
        return total

    def _weights(self, name: str, mixture: Tensor) -> Tensor:
        places = self.places[name]
        columns = {column for _, column in places}
        if len(places) == self.num_edges and len(columns) == 1:
            return mixture[:, columns.pop()]
        return torch.stack([mixture[edge, column] for edge, column in places])

    def _statistics(self, name: str) -> tuple[Tensor, Tensor]:
        return getattr(self, f"mean_{name}"), getattr(self, f"var_{name}")


def _per_edge(weights: Tensor, like: Tensor) -> Tensor:
    return weights.to(like.dtype)[:, None, None, None]


def _convolution(out_channels: int, in_channels: int, kernel: int) -> nn.Parameter:
    weight = torch.empty(out_channels, in_channels, kernel, kernel)
    bound = (in_channels * kernel * kernel) ** -0.5  # torch's default for a convolution
    return nn.Parameter(weight.uniform_(-bound, bound))


def _matrices(groups: int, channels: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(groups, channels, channels).uniform_(-(channels**-0.5), channels**-0.5))


def _register_statistics(module: nn.Module, name: str, width: int) -> None:
    module.register_buffer(f"mean_{name}", torch.zeros(width))
    module.register_buffer(f"var_{name}", torch.ones(width))


def _join(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _flat(blocks: Tensor, across: bool) -> Tensor:
    """Return (blocks, positions x channels) if `across`, else (blocks, channels x positions)."""
    return (blocks.transpose(1, 2) if across else blocks).flatten(1)
