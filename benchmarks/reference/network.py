"""A supernet the way the published codes build it: one module for each edge and operation, called one by one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lbgnas.networks.conversion import reference_tensors
from lbgnas.networks.supernet import Supernet


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=False)


class Nothing(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return (x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]).mul(0.0)


class Reduce(nn.Module):
    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(before, channels // 2, 1, stride=2, bias=False)
        self.conv_2 = nn.Conv2d(before, channels // 2, 1, stride=2, bias=False)
        self.bn = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], 1))


class Layers(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.op = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


def convolution(channels: int, kernel: int, stride: int, dilation: int) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        norm(channels),
    ]


def operation(name: str, channels: int, stride: int) -> nn.Module:
    if name == "none":
        return Nothing(stride)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else Reduce(channels, channels)
    if name == "avg_pool_3x3":
        return nn.Sequential(nn.AvgPool2d(3, stride, 1, count_include_pad=False), norm(channels))
    if name == "max_pool_3x3":
        return nn.Sequential(nn.MaxPool2d(3, stride, 1), norm(channels))
    kernel = int(name[-1])
    if name.startswith("dil"):
        return Layers(*convolution(channels, kernel, stride, 2))
    return Layers(*convolution(channels, kernel, stride, 1), *convolution(channels, kernel, 1, 1))


class Mixed(nn.Module):
    """One edge; with partial > 1 the other channels pass by and all are shuffled."""

    def __init__(self, names: tuple[str, ...], channels: int, stride: int, partial: int) -> None:
        super().__init__()
        self.partial, self.stride, self.width = partial, stride, channels // partial
        self._ops = nn.ModuleList(operation(name, self.width, stride) for name in names)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        if self.partial == 1:
            return sum(w * candidate(x) for w, candidate in zip(weights, self._ops, strict=True))
        inner, rest = x[:, : self.width], x[:, self.width :]
        mixed = sum(w * candidate(inner) for w, candidate in zip(weights, self._ops, strict=True))
        joined = torch.cat([mixed, rest if self.stride == 1 else F.max_pool2d(rest, 2, 2)], 1)
        batch, channels, height, width = joined.shape
        shuffled = joined.view(batch, self.partial, -1, height, width).transpose(1, 2).contiguous()
        return shuffled.view(batch, channels, height, width)


class Cell(nn.Module):
    def __init__(self, net: Supernet, index: int) -> None:
        super().__init__()
        own, space = net.cells[index], net.space
        self.reduction, self.concat, self.nodes = own.reduction, own.concat, own.nodes
        channels = own.width * own.partial
        widths = [net.stem.conv.out_channels] * 2
        widths += [cell.width * cell.partial * len(cell.concat) for cell in net.cells]
        if index > 0 and net.cells[index - 1].reduction:
            self.preprocess0 = Reduce(widths[index], channels)
        else:
            self.preprocess0 = Layers(nn.ReLU(), nn.Conv2d(widths[index], channels, 1, bias=False), norm(channels))
        self.preprocess1 = Layers(nn.ReLU(), nn.Conv2d(widths[index + 1], channels, 1, bias=False), norm(channels))
        names = space.operations["reduce" if self.reduction else "normal"]
        sources = [source for node in range(self.nodes) for source in range(2 + node)]
        self._ops = nn.ModuleList(
            Mixed(listed, channels, 2 if self.reduction and source < 2 else 1, own.partial)
            for listed, source in zip(names, sources, strict=True)
        )

    def forward(self, older: Tensor, last: Tensor, weights: Tensor, edge_weights: Tensor | None) -> Tensor:
        states = [self.preprocess0(older), self.preprocess1(last)]
        row = 0
        for node in range(self.nodes):
            outputs = []
            for state in states[: 2 + node]:
                output = self._ops[row](state, weights[row])
                outputs.append(output if edge_weights is None else edge_weights[row] * output)
                row += 1
            states.append(sum(outputs))
        return torch.cat([states[index] for index in self.concat], 1)


class ReferenceNetwork(nn.Module):
    """The network of a product's supernet with a CIFAR stem, with its numbers copied."""

    def __init__(self, net: Supernet) -> None:
        super().__init__()
        self.edge_normalisation, self.nodes = net.space.edge_normalisation, net.space.nodes
        own = net.stem.conv
        self.stem = nn.Sequential(
            nn.Conv2d(own.in_channels, own.out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(own.out_channels)
        )
        self.cells = nn.ModuleList(Cell(net, index) for index in range(net.num_cells))
        self.classifier = nn.Linear(net.classifier.in_features, net.classifier.out_features)
        for name, value in net.architecture_parameters().items():
            self.register_parameter(name, nn.Parameter(value.detach().clone()))
        self.to(net.classifier.weight.dtype)
        copied = {name: value.detach() for name, value in reference_tensors(net)}
        missing = self.load_state_dict(copied, strict=False)
        left = [name for name in missing.missing_keys if "num_batches" not in name and "_normal" not in name]
        assert not missing.unexpected_keys
        assert all(name.endswith("_reduce") for name in left), left

    def forward(self, images: Tensor) -> Tensor:
        older = last = self.stem(images)
        for cell in self.cells:
            kind = "reduce" if cell.reduction else "normal"
            weights = F.softmax(getattr(self, f"alphas_{kind}"), -1)
            edge_weights = None
            if self.edge_normalisation:
                parts = torch.split(getattr(self, f"betas_{kind}"), [2 + node for node in range(self.nodes)])
                edge_weights = torch.cat([F.softmax(part, -1) for part in parts])
            older, last = last, cell(older, last, weights, edge_weights)
        pooled = F.adaptive_avg_pool2d(last, 1)
        return self.classifier(pooled.view(pooled.shape[0], -1))

    def architecture(self) -> list[nn.Parameter]:
        return [value for name, value in self.named_parameters() if name.startswith(("alphas_", "betas_"))]

    def weights(self) -> list[nn.Parameter]:
        return [value for name, value in self.named_parameters() if not name.startswith(("alphas_", "betas_"))]
