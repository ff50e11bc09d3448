"""Spaces, evaluators and experiments that take a second."""

from __future__ import annotations

import tempfile

import torch
import torch.nn.functional as F
from nni.nas.evaluator.pytorch import Classification, DataLoader
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.experiment import NasExperiment
from nni.nas.hub.pytorch.nasnet import NDS
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace
from nni.nas.space import RawFormatModelSpace
from torch import nn
from torch.utils.data import TensorDataset

CLASSES = 3
QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "accelerator": "cpu",
}


class Choices(ModelSpace):
    """Layer choices (one of them ready layers in a list, one named) and an input choice."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.first = LayerChoice(
            [nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Identity(), nn.AvgPool2d(3, 1, 1)], label="first"
        )
        self.second = LayerChoice(
            {"conv": nn.Conv2d(4, 4, 1, bias=False), "skip_connect": nn.Identity(), "pool": nn.MaxPool2d(3, 1, 1)},
            label="second",
        )
        self.norm = nn.BatchNorm2d(4)
        self.source = InputChoice(2, n_chosen=1, label="source")
        self.head = nn.Linear(4, classes)

    def forward(self, x):
        x = F.relu(self.stem(x))
        first = self.first(x)
        second = self.second(torch.tanh(first))
        return self.head(self.norm(self.source([first, second])).mean((2, 3)))


def cells(width=4, nodes=2, num_cells=3, operations=("skip_connect", "sep_conv_3x3", "max_pool_3x3"), **more):
    """A space of NNI's NASNet family with few operations."""
    return NDS(list(operations), num_nodes_per_cell=nodes, width=width, num_cells=num_cells, dataset="cifar", **more)


def data(count: int = 8, seed: int = 0, side: int = 8, dtype=torch.float32) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, side, side, generator=generator, dtype=dtype)
    return TensorDataset(images, torch.arange(count) % CLASSES)


def evaluator(count: int = 8, epochs: int = 1, batch: int = 4, dtype=torch.float32, **more):
    given = {
        "optimizer": torch.optim.SGD,
        "learning_rate": 0.05,
        "num_classes": CLASSES,
        "train_dataloaders": DataLoader(data(count, 0, dtype=dtype), batch_size=batch),
        "val_dataloaders": DataLoader(data(count, 1, dtype=dtype), batch_size=batch),
        "max_epochs": epochs,
        **QUIET,
        **more,
    }
    return Classification(**given)


def experiment(space, own, strategy, folder=None) -> NasExperiment:
    made = NasExperiment(space, own, strategy)
    made.config.experiment_working_directory = str(folder or tempfile.mkdtemp())
    return made


def run(space, own, strategy, folder=None) -> NasExperiment:
    made = experiment(space, own, strategy, folder)
    try:
        made.run()
    finally:
        made.stop()
    return made


def initialised(space, own, strategy):
    """Return the strategy as it is when the experiment is about to run."""
    strategy.initialize(RawFormatModelSpace(space, own), SequentialExecutionEngine())
    return strategy


def gate() -> nn.Module:
    """A gate of two groups that divides random images at its start, by the mean of their first channel."""
    layer = nn.Linear(3 * 8 * 8, 2)
    with torch.no_grad():
        layer.bias.zero_()
        layer.weight.zero_()
        layer.weight[0, :64], layer.weight[1, :64] = 0.3, -0.3
    return nn.Sequential(nn.Flatten(), layer)
