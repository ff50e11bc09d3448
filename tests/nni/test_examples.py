"""The examples of docs/nni.md, as they stand but for sizes and data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torchvision
from nni.nas.experiment import NasExperiment
from torchvision.transforms import ToTensor

from tests.nni.small import QUIET

TEXT = Path(__file__).parents[2] / "docs" / "nni.md"
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT.read_text(encoding="utf-8"), re.DOTALL)


class FewImages(torchvision.datasets.FakeData):
    def __init__(self, root, train, download, transform):
        super().__init__(8, (3, 8, 8), 10, transform=ToTensor())


def smaller(block: str) -> str:
    sizes = {"EPOCHS": 1, "WIDTH": 4, "CELLS": 3, "BATCH": 4}
    line = next(line for line in block.splitlines() if line.startswith("EPOCHS"))
    names = line.split(" = ")[0]
    block = block.replace(line, f"{names} = {', '.join(str(sizes[name]) for name in names.split(', '))}")
    block = re.sub(r"OPTIONS = .*", f"OPTIONS = {QUIET}", block)
    return block.replace("512", "8").replace("16, 16), torch", "8, 8), torch")


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_example(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", FewImages)
    start = NasExperiment.__init__

    def here(self, *given, **named):
        start(self, *given, **named)
        self.config.experiment_working_directory = str(tmp_path / "nni")

    monkeypatch.setattr(NasExperiment, "__init__", here)
    names: dict = {"__name__": "example"}
    exec(compile(smaller(BLOCKS[number]), f"docs/nni.md block {number}", "exec"), names)
    names["experiment"].stop()
    samples = names["experiment"].export_top_models(top_k=9, formatter="dict")
    assert len(samples) == names["strategy"].settings.experts
    if "genotype" in names:
        assert (tmp_path / "runs" / "nni" / "genotype.json").exists()
        assert names["network"](names["images"][0][0][None]).shape == (1, 10)
