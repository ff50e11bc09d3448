"""What a run leaves for use: gate and trained experts as one module, and its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from lbgnas.data.image_data import DataInfo
from lbgnas.data.transforms import normalise, pad_to_multiple
from lbgnas.errors import LbgnasError
from lbgnas.files import write_bytes, write_text
from lbgnas.genotype import CellGenotype
from lbgnas.networks.comparison import COMPARISONS, build_comparison
from lbgnas.networks.fixed import from_dict
from lbgnas.networks.gates import make_gate
from lbgnas.networks.stacked import StackedNetwork

MODEL = "model.json"
_FORMAT, _VERSION = "lbgnas.model", 1


class Prediction(NamedTuple):
    """Answers for a batch.

    Attributes:
        probabilities: of the classes, by the sample's own expert, (batch, classes).
        group: the expert each sample was routed to, (batch,).
        confidence: the gate's probability of that expert, (batch,).
    """

    probabilities: Tensor
    group: Tensor
    confidence: Tensor


class GroupedModel(nn.Module):
    """Gate and experts as one module that takes images as they come from a file.

    Args:
        gate: images to logits (batch, K); None for one expert.
        experts: K modules, images to logits or to a tuple that begins with them.
        info: size, mean and std of the images it was trained on, and the names of the classes.
        trained: for each expert, whether it was trained; the others are never chosen.
        multiple: images are padded to a multiple of it.
    """

    def __init__(
        self,
        gate: nn.Module | None,
        experts: Sequence[nn.Module],
        info: DataInfo,
        trained: Sequence[bool],
        multiple: int = 4,
    ) -> None:
        super().__init__()
        self.multiple = multiple
        self.gate = gate
        self.experts = nn.ModuleList(experts)
        self.info = info
        self.register_buffer("usable", torch.tensor(list(trained), dtype=torch.get_default_dtype()))

    def forward(self, images: Tensor) -> Prediction:
        """Answer for images (batch, channels, size, size) in [0, 1]; every expert is asked for every sample.

        So the graph does not depend on the data, which an export needs; `predict` asks the own expert only.
        """
        x = self._prepared(images)
        probs = self._gate(x)
        confidence, group = probs.max(1)
        every = torch.stack([_logits(expert(x)) for expert in self.experts], 1)
        own = every.gather(1, group[:, None, None].expand(-1, 1, every.shape[2])).squeeze(1)
        return Prediction(own.softmax(1), group, confidence)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Prediction:
        """Answer as `forward` does, each sample through its own expert alone."""
        x = self._prepared(images)
        confidence, group = self._gate(x).max(1)
        probabilities = images.new_empty(len(images), self.info.num_classes)
        for index, expert in enumerate(self.experts):
            rows = (group == index).nonzero()[:, 0]
            if len(rows):
                probabilities[rows] = _logits(expert(x[rows])).softmax(1)
        return Prediction(probabilities, group, confidence)

    def _prepared(self, images: Tensor) -> Tensor:
        return pad_to_multiple(normalise(images, self.info.mean, self.info.std), self.multiple)

    def _gate(self, x: Tensor) -> Tensor:
        usable = self.get_buffer("usable")
        if self.gate is None:
            return usable.expand(x.shape[0], 1)
        probs: Tensor = self.gate(x).softmax(1) * usable
        return probs


def _logits(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def stacked_record(
    cell: CellGenotype, cells: int, channels: int, info: DataInfo, stem: str, points: Sequence[Fraction]
) -> dict[str, Any]:
    """Return what a searched expert is built from, as JSON-safe data."""
    return {
        "kind": "stacked",
        "genotype": asdict(cell),
        "cells": cells,
        "channels": channels,
        "in_channels": info.channels,
        "outputs": info.num_classes,
        "stem": stem,
        "points": [str(point) for point in points],
    }


def save_model(
    folder: Path,
    model: GroupedModel,
    records: Sequence[Mapping[str, Any]],
    gate_record: Mapping[str, Any] | None,
) -> None:
    """Write model.json, expert0.safetensors, ... and, with a gate, gate.safetensors."""
    modules = {f"expert{index}": expert for index, expert in enumerate(model.experts)}
    if model.gate is not None:
        modules["gate"] = model.gate
    hashes = {}
    for name, module in modules.items():
        content = save_tensors({key: v.detach().cpu().contiguous() for key, v in module.state_dict().items()})
        write_bytes(folder / f"{name}.safetensors", content)
        hashes[name] = hashlib.sha256(content).hexdigest()
    info = asdict(model.info)
    described = {
        "format": _FORMAT,
        "version": _VERSION,
        "experts": [dict(record) for record in records],
        "trained": [bool(value) for value in model.get_buffer("usable").tolist()],
        "gate": None if gate_record is None else dict(gate_record),
        "multiple": model.multiple,
        "sha256": hashes,
        "data": {key: info[key] for key in _INFO},
    }
    write_text(folder / MODEL, json.dumps(described, indent=1))


_INFO = ("name", "num_classes", "class_names", "channels", "size", "mean", "std")


def load_model(folder: Path) -> GroupedModel:
    """Return the model of a run's folder, in evaluation mode.

    Raises:
        LbgnasError: a file that is missing, broken, of another version or changed.
    """
    path = folder / MODEL
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LbgnasError(
            f"{folder}: holds no trained model (no {MODEL}); evaluate.py and train_groups.py end in one"
        ) from None
    except (OSError, ValueError) as error:
        raise LbgnasError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise LbgnasError(f"{path}: is no description of a model")
    if content.get("version") != _VERSION:
        raise LbgnasError(f"{path}: is of version {content.get('version')!r}; this program reads {_VERSION}")
    try:
        data: dict[str, Any] = _tuples(content["data"])
        info = DataInfo(**data)
        experts = [_build(record, f"{path}: experts[{k}]") for k, record in enumerate(content["experts"])]
        gate = None if content["gate"] is None else _build_gate(content["gate"])
        trained, hashes = content["trained"], content["sha256"]
        modules = {**{f"expert{k}": expert for k, expert in enumerate(experts)}, **({"gate": gate} if gate else {})}
        for name, module in modules.items():
            _load(module, folder / f"{name}.safetensors", hashes[name])
        multiple = int(content["multiple"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, LbgnasError):
            raise
        raise LbgnasError(f"{path}: parts of the description are missing or of the wrong kind ({error})") from None
    return GroupedModel(gate, experts, info, trained, multiple).eval()


def _build(record: Mapping[str, Any], where: str) -> nn.Module:
    if record["kind"] == "fixed":
        return from_dict(record, where).build()
    if record["kind"] in COMPARISONS:
        return build_comparison(record["kind"], from_dict(record["network"], where))
    cell: dict[str, Any] = _tuples(record["genotype"])
    return StackedNetwork(
        CellGenotype(**cell),
        record["cells"],
        record["channels"],
        record["outputs"],
        record["in_channels"],
        False,
        stem=record["stem"],
        points=tuple(map(Fraction, record["points"])),
    )


def _tuples(value: Any) -> Any:
    """Return lists as tuples, all the way down."""
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _build_gate(record: Mapping[str, Any]) -> nn.Module:
    name = "conv" if record["kind"] == "small" else record["kind"]
    return make_gate(name, record["in_channels"], record["groups"], record.get("size", 0), record.get("width", 0))


def _load(module: nn.Module, path: Path, sha256: str) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LbgnasError(f"{path}: cannot be read ({error.strerror})") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise LbgnasError(f"{path}: is not the file the model was saved with")
    weights = {name: value for name, value in load_tensors(content).items() if not name.startswith("auxiliary_head")}
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise LbgnasError(f"{path}: does not fit the model ({' '.join(str(error).split())[:120]})") from None
