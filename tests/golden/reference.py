"""The rule that fills networks with numbers by the names of the published implementations, and how to compare."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lbgnas.networks.conversion import reference_tensors
from lbgnas.networks.stacked import StackedNetwork
from lbgnas.networks.supernet import Supernet

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


def fill(net: Supernet | StackedNetwork, naming: str = "darts") -> None:
    with torch.no_grad():
        for name, view in reference_tensors(net, naming):
            view.copy_(fill_value(name, tuple(view.shape)))


def arch_values(net: Supernet, scale: float = 1.0) -> None:
    with torch.no_grad():
        for index, value in enumerate(net.architecture_parameters().values()):
            z = np.random.RandomState(100 + index).standard_normal(tuple(value.shape)).astype(np.float32)
            value.copy_(torch.from_numpy(z).double() * scale)


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
