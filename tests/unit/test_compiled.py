"""A compiled evaluation takes the steps that it takes otherwise."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from lbgnas.config import EvaluationSettings, NetworkSettings
from lbgnas.engine.compiled import compiled
from lbgnas.engine.evaluate import Evaluation
from lbgnas.errors import LbgnasError

CPU = torch.device("cpu")


def test_compiled_networks_are_the_same_functions_of_the_same_parameters():
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    (same,) = compiled([network], CPU)
    x = torch.randn(5, 3)
    torch.testing.assert_close(same(x), network(x))
    gradient = torch.autograd.grad(same(x).square().sum(), network[0].weight)
    torch.testing.assert_close(gradient, torch.autograd.grad(network(x).square().sum(), network[0].weight))


def test_without_a_compiler_one_sentence_says_so(monkeypatch):
    def fails(function):
        raise RuntimeError("no C++ compiler\nmany lines")

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(
        LbgnasError, match=r"--compile: torch.compile does not work here for cpu \(no C\+\+ compiler\)$"
    ):
        compiled([nn.Identity()], CPU)


def test_an_evaluation_takes_the_same_steps_in_one_graph(tmp_path, monkeypatch):
    # The compiler's own kernels are not what is tested here; what it is given is.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager", fullgraph=True))
    losses = []
    for name in ("plain", "compiled"):
        settings = EvaluationSettings(
            genotype="DARTS_V2",
            data="coloured-digits",
            limit=60,
            batch_size=20,
            drop_path=0.0,
            network=NetworkSettings(cells=3, channels=4),
            compile=name == "compiled",
        )
        folder = tmp_path / name
        folder.mkdir()
        evaluation = Evaluation(settings, folder)
        evaluation.networks[0].train()
        losses.append([evaluation.train_step(batch) for batch in evaluation.batches()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(losses[0]) > 1
