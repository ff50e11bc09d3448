"""A trained model as a file for other programs: torch.export and ONNX, checked against the model."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lbgnas.engine.grouped_model import GroupedModel
from lbgnas.errors import LbgnasError, unknown
from lbgnas.files import write_bytes

FORMATS = ("pt2", "onnx")
OUTPUTS = ("probabilities", "group", "confidence")
TOLERANCE = 1e-4

_BATCHES = (1, 2, 7)


@dataclass(frozen=True)
class Exported:
    """A file written, and the largest difference from the model's probabilities and confidences over some batches."""

    path: Path
    difference: float


def export(model: GroupedModel, folder: Path, formats: Sequence[str] = FORMATS) -> list[Exported]:
    """Write `model.pt2` and `model.onnx`; images (any number, channels, size, size) in [0, 1] to `OUTPUTS`.

    Every expert is asked for every image, and the gate's choice is taken from their answers: the graph does not
    depend on the data.

    Args:
        model: in evaluation mode, on the CPU.
        folder: where to write.
        formats: some of `FORMATS`.

    Raises:
        LbgnasError: an unknown format, a package that is missing, an operation that cannot be exported, or a file
            that answers otherwise than the model.
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS, "--formats")
    info = model.info
    draw = torch.Generator().manual_seed(0)
    batches = [torch.rand(count, info.channels, info.size, info.size, generator=draw) for count in _BATCHES]
    program = _program(model, batches[1])
    done = []
    for name in formats:
        path = folder / f"model.{name}"
        run = _write_torch(program, path) if name == "pt2" else _write_onnx(program, path)
        done.append(Exported(path, _largest_difference(model, run, batches, path)))
    return done


class _Plain(nn.Module):
    """The model with its answers as a plain tuple, which needs nothing of ours where it is loaded."""

    def __init__(self, model: GroupedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        probabilities, group, confidence = self.model(images)
        return probabilities, group, confidence


def _program(model: GroupedModel, example: Tensor) -> torch.export.ExportedProgram:
    free = {"images": {0: torch.export.Dim("batch", min=1)}}
    try:
        return torch.export.export(_Plain(model), (example,), dynamic_shapes=free)
    except (RuntimeError, ValueError, torch._dynamo.exc.TorchDynamoException) as error:
        reason = " ".join(str(error).split())[:160]
        raise LbgnasError(f"this model cannot be exported: {reason}") from None


def _write_torch(program: torch.export.ExportedProgram, path: Path) -> Callable[[Tensor], list[Tensor]]:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    write_bytes(path, buffer.getvalue())
    module = torch.export.load(str(path)).module()
    return lambda images: list(module(images))


def _write_onnx(program: torch.export.ExportedProgram, path: Path) -> Callable[[Tensor], list[Tensor]]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch asks for it too late, with a message of its own
    except ModuleNotFoundError:
        raise LbgnasError("onnx: the packages are not installed: pip install 'lbgnas[export]'") from None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converter's own future
        written = torch.onnx.export(
            program, input_names=["images"], output_names=list(OUTPUTS), dynamo=True, verbose=False
        )
    assert written is not None
    write_bytes(path, written.model_proto.SerializeToString())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(value) for value in session.run(list(OUTPUTS), {"images": images.numpy()})]


@torch.no_grad()
def _largest_difference(
    model: GroupedModel, run: Callable[[Tensor], list[Tensor]], batches: Sequence[Tensor], path: Path
) -> float:
    largest = 0.0
    for images in batches:
        wanted, found = model(images), run(images)
        for index in (0, 2):
            largest = max(largest, float((wanted[index] - found[index]).abs().max()))
        if not torch.equal(wanted.group, found[1]) or largest > TOLERANCE:
            raise LbgnasError(
                f"{path}: answers otherwise than the model (largest difference {largest:.2g}, allowed {TOLERANCE:.0e})"
            )
    return largest
