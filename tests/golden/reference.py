"""Names under which the published implementations keep their tensors, and the rule that fills them with numbers."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lbgnas.networks.supernet import Supernet
from lbgnas.operations.source import CONVOLUTIONS, SourceEdges

DATA = Path(__file__).parent / "data"


def golden(name: str) -> dict:
    return json.loads((DATA / f"{name}.json").read_text())


def fill_value(name: str, shape: tuple[int, ...]) -> Tensor:
    z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith("running_mean"):
        z = np.float32(0.1) * z
    elif name.endswith("running_var"):
        z = np.float32(1) + np.float32(0.1) * np.abs(z)
    elif name.endswith("bias"):
        z = np.float32(0.1) * z
    elif len(shape) == 1:
        z = np.float32(1) + np.float32(0.1) * z
    else:
        z = z * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    return torch.from_numpy(z).double()


def fill(pairs: Iterator[tuple[str, Tensor]]) -> int:
    count = 0
    with torch.no_grad():
        for name, view in pairs:
            view.copy_(fill_value(name, tuple(view.shape)))
            count += 1
    return count


def arch_values(net: Supernet, scale: float = 1.0) -> None:
    with torch.no_grad():
        for index, value in enumerate(net.architecture_parameters().values()):
            z = np.random.RandomState(100 + index).standard_normal(tuple(value.shape)).astype(np.float32)
            value.copy_(torch.from_numpy(z).double() * scale)


def norm(name: str, module: nn.BatchNorm2d) -> Iterator[tuple[str, Tensor]]:
    if module.affine:
        yield f"{name}.weight", module.weight
        yield f"{name}.bias", module.bias
    yield f"{name}.running_mean", module.running_mean
    yield f"{name}.running_var", module.running_var


def reduce(name: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield f"{name}.conv_1.weight", module.conv_1.weight
    yield f"{name}.conv_2.weight", module.conv_2.weight
    yield from norm(f"{name}.bn", module.norm)


def preprocess(name: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    if isinstance(module, nn.Sequential):
        yield f"{name}.op.1.weight", module[1].weight
        yield from norm(f"{name}.op.2", module[2])
    else:
        yield from reduce(name, module)


def stem(module: nn.Module, kind: str) -> Iterator[tuple[str, Tensor]]:
    if kind == "cifar":
        yield "stem.0.weight", module.conv.weight
        yield from norm("stem.1", module.norm)
        return
    yield "stem0.0.weight", module.conv_1.weight
    yield from norm("stem0.1", module.norm_1)
    yield "stem0.3.weight", module.conv_2.weight
    yield from norm("stem0.4", module.norm_2)
    yield "stem1.1.weight", module.conv_3.weight
    yield from norm("stem1.2", module.norm_3)


def source_edges(edges: SourceEdges, prefixes: list[str]) -> Iterator[tuple[str, Tensor]]:
    channels = edges.channels

    def block(tensor: Tensor, index: int, width: int = channels) -> Tensor:
        return tensor[index * width : (index + 1) * width]

    first = second = 0
    for name in edges.convolutions:
        stages = CONVOLUTIONS[name].stages
        for index, (edge, column) in enumerate(edges.places[name]):
            op = f"{prefixes[edge]}.{column}.op"
            yield f"{op}.1.weight", block(edges.get_parameter(f"{name}_depthwise_first"), index)
            yield f"{op}.2.weight", edges.pointwise_first[first][:, :, None, None]
            yield f"{op}.3.running_mean", block(edges.mean_first, first)
            yield f"{op}.3.running_var", block(edges.var_first, first)
            first += 1
            if stages == 2:
                yield f"{op}.5.weight", block(edges.get_parameter(f"{name}_depthwise_second"), index)
                yield f"{op}.6.weight", edges.pointwise_second[second][:, :, None, None]
                yield f"{op}.7.running_mean", block(edges.mean_second, second)
                yield f"{op}.7.running_var", block(edges.var_second, second)
                second += 1
    for name in edges.pools:
        for index, (edge, column) in enumerate(edges.places[name]):
            op = f"{prefixes[edge]}.{column}.1"
            yield f"{op}.running_mean", block(edges.get_buffer(f"mean_{name}"), index)
            yield f"{op}.running_var", block(edges.get_buffer(f"var_{name}"), index)
    if edges.has_skip and edges.stride == 2:
        for index, (edge, column) in enumerate(edges.places["skip_connect"]):
            op = f"{prefixes[edge]}.{column}"
            yield f"{op}.conv_1.weight", block(edges.skip_even, index, channels // 2)
            yield f"{op}.conv_2.weight", block(edges.skip_odd, index, channels // 2)
            yield f"{op}.bn.running_mean", block(edges.mean_skip, index)
            yield f"{op}.bn.running_var", block(edges.var_skip, index)


def supernet(net: Supernet) -> Iterator[tuple[str, Tensor]]:
    yield from stem(net.stem, net.space.stem)
    for i, cell in enumerate(net.cells):
        yield from preprocess(f"cells.{i}.preprocess0", cell.preprocess0)
        yield from preprocess(f"cells.{i}.preprocess1", cell.preprocess1)
        for edges, rows in zip(cell.sources, cell.rows, strict=True):
            yield from source_edges(edges, [f"cells.{i}._ops.{row}._ops" for row in rows])
    yield "classifier.weight", net.classifier.weight
    yield "classifier.bias", net.classifier.bias


def images(seed: int, count: int = 2, size: int = 32) -> Tensor:
    z = np.random.RandomState(seed).standard_normal((count, 3, size, size)).astype(np.float32)
    return torch.from_numpy(z).double()


def assert_close(actual: float, expected: float, absolute: float = 1e-8, relative: float = 1e-7) -> None:
    assert abs(actual - expected) <= absolute + relative * abs(expected), (actual, expected)


def assert_summary(tensor: Tensor, expected: dict, absolute: float = 1e-8, relative: float = 1e-7) -> None:
    tensor = tensor.detach()
    assert_close(float(tensor.norm()), expected["l2"], absolute, relative)
    for value, wanted in zip(tensor.flatten().tolist(), expected["head"], strict=False):
        assert_close(value, wanted, absolute, relative)
    assert abs(float(tensor.sum()) - expected["sum"]) <= 1e-7 + 1e-6 * abs(expected["sum"])
