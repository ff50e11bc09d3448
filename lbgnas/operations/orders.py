"""The two orders in memory in which a cell computes, behind one set of functions.

`Pixels`: channels-last images, depthwise convolutions by torch. `Samples`: channel by pixel by sample, for images of
few pixels on a CPU; there a depthwise convolution is one product of matrices for each channel, whatever the kernel,
where torch compiles code for every kernel and every new number of samples and spends far more time than the arithmetic
takes. Tensors are (batch, channels, height, width) in both; only strides differ.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lbgnas.operations.depthwise import as_matrices, average_matrix, average_shares, depthwise
from lbgnas.operations.pooling import max_pool
from lbgnas.operations.products import add_product, product
from lbgnas.tangents import linear


class Kernels(NamedTuple):
    """Depthwise kernels of one kind for some edges: (edges * C, 1, k, k), with their dilation."""

    weight: Tensor
    dilation: int


class Order(Protocol):
    """What a cell needs of an order; blocks are (blocks, channels, positions), see `products`."""

    def enter(self, x: Tensor) -> Tensor:
        """Return the same images in this order."""
        ...

    def first(self, x: Tensor, kernels: list[Kernels], stride: int) -> list[Tensor]:
        """Convolve one state by the kernels of several edges; return blocks for each kind."""
        ...

    def second(self, blocks: Tensor, kernels: Kernels, batch: int, height: int, width: int) -> Tensor:
        """Convolve every block by a kernel of its own."""
        ...

    def blocks(self, x: Tensor, count: int) -> Tensor:
        """Return images of count * C channels as blocks (count, C, positions)."""
        ...

    def images(self, blocks: Tensor, batch: int, height: int, width: int) -> Tensor:
        """Return blocks as images, (batch, blocks, C, height, width)."""
        ...

    def own(self, blocks: Tensor, batch: int, rows: int) -> Tensor:
        """Return the positions of the first `rows` samples."""
        ...

    def add_own(self, blocks: Tensor, added: Tensor, batch: int, rows: int) -> None:
        """Add to the positions of the first `rows` samples, in place."""
        ...

    def join(self, images: list[Tensor]) -> Tensor:
        """Return the channels of several images side by side."""
        ...

    def shuffle(self, x: Tensor, groups: int) -> Tensor:
        """Interleave `groups` blocks of channels: output q * groups + g is input g * (channels / groups) + q."""
        ...

    def max_pool(self, x: Tensor, stride: int) -> Tensor:
        """Take the maximum over 3x3 windows."""
        ...

    def average_pool(self, x: Tensor, stride: int) -> Tensor:
        """Average over 3x3 windows, padding left out of the count."""
        ...


class Pixels:
    """Channels-last images."""

    def enter(self, x: Tensor) -> Tensor:
        """Return the images in channels-last order."""
        return x.contiguous(memory_format=torch.channels_last)

    def first(self, x: Tensor, kernels: list[Kernels], stride: int) -> list[Tensor]:
        """Convolve one state by the kernels of several edges."""
        outputs = depthwise(x, stride, tuple(kind.dilation for kind in kernels), *(kind.weight for kind in kernels))
        return [self.blocks(output, output.shape[1] // x.shape[1]) for output in outputs]

    def second(self, blocks: Tensor, kernels: Kernels, batch: int, height: int, width: int) -> Tensor:
        """Convolve every block by a kernel of its own."""
        x = self.images(blocks, batch, height, width).flatten(1, 2)
        return self.blocks(depthwise(x, 1, (kernels.dilation,), kernels.weight)[0], len(blocks))

    def blocks(self, x: Tensor, count: int) -> Tensor:
        """Return images as blocks."""
        return torch.unflatten(x.permute(0, 2, 3, 1).flatten(0, 2), 1, (count, -1)).permute(1, 2, 0)

    def images(self, blocks: Tensor, batch: int, height: int, width: int) -> Tensor:
        """Return blocks as images."""
        return torch.unflatten(blocks, 2, (batch, height, width)).permute(2, 0, 1, 3, 4)

    def own(self, blocks: Tensor, batch: int, rows: int) -> Tensor:
        """Return the positions of the first samples."""
        return blocks[:, :, : blocks.shape[2] // batch * rows]

    def add_own(self, blocks: Tensor, added: Tensor, batch: int, rows: int) -> None:
        """Add to the positions of the first samples."""
        self.own(blocks, batch, rows).add_(added)

    def join(self, images: list[Tensor]) -> Tensor:
        """Return the channels of several images side by side."""
        return torch.cat([image.permute(0, 2, 3, 1) for image in images], 3).permute(0, 3, 1, 2)

    def shuffle(self, x: Tensor, groups: int) -> Tensor:
        """Interleave blocks of channels."""
        channels = torch.unflatten(x.permute(0, 2, 3, 1), 3, (groups, -1))
        return channels.transpose(3, 4).flatten(3).permute(0, 3, 1, 2)

    def max_pool(self, x: Tensor, stride: int) -> Tensor:
        """Take the maximum over 3x3 windows."""
        return max_pool(x, stride)

    def average_pool(self, x: Tensor, stride: int) -> Tensor:
        """Average over 3x3 windows."""
        if x.is_cuda:
            return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
        _, channels, height, width = x.shape
        sums = depthwise(x, stride, (1,), x.new_ones(channels, 1, 3, 3))[0]
        shares = average_shares(stride, height, width, x.dtype, x.device)
        return linear(lambda value: value * shares, sums)


class Samples:
    """Channel by pixel by sample."""

    def enter(self, x: Tensor) -> Tensor:
        """Return the images with samples last in memory."""
        return x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)

    def first(self, x: Tensor, kernels: list[Kernels], stride: int) -> list[Tensor]:
        """Convolve one state by the kernels of several edges."""
        _, channels, height, width = x.shape
        pixels = x.permute(1, 2, 3, 0).flatten(1, 2)
        found = []
        for weight, dilation in kernels:
            own = torch.unflatten(weight, 0, (-1, channels)).transpose(0, 1).flatten(0, 1)
            matrices = as_matrices(own, dilation, stride, height, width).view(channels, -1, height * width)
            outputs = torch.bmm(matrices, pixels)
            count = len(weight) // channels
            found.append(outputs.view(channels, count, -1).transpose(0, 1))
        return found

    def second(self, blocks: Tensor, kernels: Kernels, batch: int, height: int, width: int) -> Tensor:
        """Convolve every block by a kernel of its own."""
        matrices = as_matrices(kernels.weight, kernels.dilation, 1, height, width)
        pixels = blocks.reshape(len(matrices), height * width, batch)
        return torch.bmm(matrices, pixels).view(blocks.shape)

    def blocks(self, x: Tensor, count: int) -> Tensor:
        """Return images as blocks."""
        return x.permute(1, 2, 3, 0).reshape(count, x.shape[1] // count, -1)

    def images(self, blocks: Tensor, batch: int, height: int, width: int) -> Tensor:
        """Return blocks as images."""
        return torch.unflatten(blocks, 2, (height, width, batch)).permute(4, 0, 1, 2, 3)

    def own(self, blocks: Tensor, batch: int, rows: int) -> Tensor:
        """Return the positions of the first samples."""
        return torch.unflatten(blocks, 2, (-1, batch))[..., :rows].flatten(2)

    def add_own(self, blocks: Tensor, added: Tensor, batch: int, rows: int) -> None:
        """Add to the positions of the first samples."""
        torch.unflatten(blocks, 2, (-1, batch))[..., :rows].add_(torch.unflatten(added, 2, (-1, rows)))

    def join(self, images: list[Tensor]) -> Tensor:
        """Return the channels of several images side by side."""
        return torch.cat([image.permute(1, 2, 3, 0) for image in images]).permute(3, 0, 1, 2)

    def shuffle(self, x: Tensor, groups: int) -> Tensor:
        """Interleave blocks of channels."""
        channels = torch.unflatten(x.permute(1, 2, 3, 0), 0, (groups, -1))
        return channels.transpose(0, 1).flatten(0, 1).permute(3, 0, 1, 2)

    def max_pool(self, x: Tensor, stride: int) -> Tensor:
        """Take the maximum over 3x3 windows."""
        # Torch's own is several times faster on channels-last images, the copies counted.
        return self.enter(max_pool(PIXELS.enter(x), stride))

    def average_pool(self, x: Tensor, stride: int) -> Tensor:
        """Average over 3x3 windows."""
        _, _, height, width = x.shape
        matrix = average_matrix(stride, height, width, x.dtype, x.device)
        pooled = linear(lambda images: matrix @ images, x.permute(1, 2, 3, 0).flatten(1, 2))
        rows, columns = (-(-side // stride) for side in (height, width))
        return torch.unflatten(pooled, 1, (rows, columns)).permute(3, 0, 1, 2)


PIXELS, SAMPLES = Pixels(), Samples()


def order_for(x: Tensor, height: int, width: int) -> Order:
    """Return the order that suits images of this size, as many as x has."""
    few = height * width <= 16 or (height * width <= 64 and x.shape[0] >= 32)
    return SAMPLES if few and not x.is_cuda else PIXELS


class Way(NamedTuple):
    """How blocks are joined: each kind rectified by itself, or all kinds summed; and whose statistics count.

    Attributes:
        relu: rectify each kind's result; else results are summed.
        order: of the blocks in memory.
        batch: number of samples.
        rows: the first of them give the statistics.
    """

    relu: bool
    order: Order
    batch: int
    rows: int

    def own(self, block: Tensor) -> Tensor:
        """Return the positions that statistics are taken from."""
        return block if self.rows == self.batch else self.order.own(block, self.batch, self.rows)

    def through_statistics(self, slope: Tensor, aside: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> None:
        """Add `aside` and the sum of W x over the pairs to a slope, for the samples that statistics are taken from."""
        if self.rows == self.batch:
            slope += aside
            for weight, block in pairs:
                add_product(slope, weight, block)
            return
        first, block = pairs[0]
        found = product(first, self.own(block), aside, block, apart=False)
        for weight, block in pairs[1:]:
            add_product(found, weight, self.own(block))
        self.order.add_own(slope, found, self.batch, self.rows)
