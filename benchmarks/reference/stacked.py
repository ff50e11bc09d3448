"""The evaluation network the way the published codes build it: torch's own modules, called one by one."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lbgnas.networks.stacked import StackedNetwork
from lbgnas.operations.candidates import FactorizedReduce
from lbgnas.operations.depthwise import DepthwiseConv


class Reduce(nn.Module):
    def __init__(self, own: FactorizedReduce) -> None:
        super().__init__()
        self.conv_1, self.conv_2, self.norm = (copy.deepcopy(part) for part in (own.conv_1, own.conv_2, own.norm))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        return self.norm(torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], 1))


def _plain(own: nn.Module) -> nn.Module:
    if isinstance(own, FactorizedReduce):
        return Reduce(own)
    plain = copy.deepcopy(own)
    for name, part in own.named_children():
        if isinstance(part, DepthwiseConv):
            channels = part.in_channels
            sizes = part.kernel_size, part.stride, part.padding, part.dilation
            stock = nn.Conv2d(channels, channels, *sizes, groups=channels, bias=False)
            stock.load_state_dict(part.state_dict())
            plain.add_module(name, stock)
    return plain


class Cell(nn.Module):
    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.preprocess0, self.preprocess1 = _plain(own.preprocess0), _plain(own.preprocess1)
        self.operations = nn.ModuleList(_plain(operation) for operation in own.operations)
        self.inputs, self.concat = own.inputs, own.concat

    def forward(self, older: Tensor, last: Tensor) -> Tensor:
        states = [self.preprocess0(older), self.preprocess1(last)]
        outputs = [run(states[source]) for run, source in zip(self.operations[:2], self.inputs, strict=False)]
        states.append(outputs[0] + outputs[1])
        for start in range(2, len(self.operations), 2):
            one, two = (self.operations[i](states[self.inputs[i]]) for i in (start, start + 1))
            states.append(one + two)
        return torch.cat([states[index] for index in self.concat], 1)


class ReferenceStacked(nn.Module):
    """The network of a product's stacked one without auxiliary head, with its numbers copied."""

    def __init__(self, own: StackedNetwork) -> None:
        super().__init__()
        self.stem, self.classifier = copy.deepcopy(own.stem), copy.deepcopy(own.classifier)
        self.cells = nn.ModuleList(Cell(cell) for cell in own.cells)
        self.to(memory_format=torch.contiguous_format)

    def forward(self, images: Tensor) -> Tensor:
        older, last = self.stem(images)
        for cell in self.cells:
            older, last = last, cell(older, last)
        return self.classifier(nn.functional.adaptive_avg_pool2d(last, 1).flatten(1))
