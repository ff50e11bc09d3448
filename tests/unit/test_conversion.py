"""State dicts of the published implementations, in both directions."""

from __future__ import annotations

import pytest
import torch

from lbgnas.errors import LbgnasError
from lbgnas.genotype import published
from lbgnas.networks.conversion import load_reference_state, reference_state
from lbgnas.networks.stacked import StackedNetwork
from lbgnas.networks.supernet import Supernet
from lbgnas.space import load_space


def supernet(name, cells=3, channels=8):
    torch.manual_seed(len(name))
    space = load_space(name)
    if name == "darts-minus-s1":
        space = space.model_copy(update={"auxiliary_skip": "conv"})
    return Supernet(space, cells, channels, 10)


def stacked(name, stem="cifar"):
    return StackedNetwork(published(name).experts[0], 5, 8, 10, auxiliary=True, stem=stem, auxiliary_norm=True)


def moved(network, size):
    """The network after a pass in training mode: no running statistic is what it was at the start."""
    network.train()(torch.randn(3, 3, size, size))
    return network.eval()


NETWORKS = {
    "darts": (lambda: supernet("darts"), "darts", 8),
    "pdarts": (lambda: supernet("pdarts"), "pdarts", 8),
    "pcdarts": (lambda: supernet("pcdarts"), "darts", 8),
    "pcdarts-imagenet": (lambda: supernet("pcdarts-imagenet"), "darts", 32),
    "darts-, s0": (lambda: supernet("darts-minus-s0"), "darts", 8),
    "darts-, s1, convolution": (lambda: supernet("darts-minus-s1"), "darts", 8),
    "DARTS_V2": (lambda: stacked("DARTS_V2"), "darts", 32),
    "PDARTS, imagenet": (lambda: stacked("PDARTS", "imagenet"), "pdarts", 64),
    "PC_DARTS_cifar": (lambda: stacked("PC_DARTS_cifar"), "darts", 32),
    "cifar10_s1_1": (lambda: stacked("cifar10_s1_1"), "darts", 32),
    "AmoebaNet": (lambda: stacked("AmoebaNet"), "darts", 32),
}


@pytest.mark.parametrize("key", NETWORKS)
def test_round_trip(key):
    make, naming, size = NETWORKS[key]
    network = moved(make(), size)
    state = {f"module.{name}": value for name, value in reference_state(network, naming).items()}
    other = make()
    with torch.no_grad():
        for value in (*other.parameters(), *other.buffers()):
            if value.is_floating_point():
                value.fill_(0.123)
        if isinstance(other, Supernet) and naming != "pdarts":
            for mine, theirs in zip(
                other.architecture_parameters().values(), network.architecture_parameters().values(), strict=True
            ):
                mine.copy_(theirs)
    load_reference_state(other, state, naming)
    x = torch.randn(2, 3, size, size)
    first, second = ([out] if isinstance(out, torch.Tensor) else out[:1] for out in (network(x), other.eval()(x)))
    assert torch.equal(first[0], second[0])
    left, right = network.state_dict(), other.state_dict()
    for name in left:
        assert name.endswith("num_batches_tracked") or torch.equal(left[name], right[name]), name


def test_as_many_tensors_as_published():
    with torch.device("meta"):
        network = Supernet(load_space("darts"), 8, 16, 10)
    state = reference_state(network)
    assert len(state) == 4186
    assert sum(not name.rpartition(".")[2].startswith(("running", "num_batches")) for name in state) == 1399
    with torch.device("meta"):
        stage = Supernet(load_space("pdarts"), 5, 16, 10)
    state = reference_state(stage, "pdarts")
    weights = [v for n, v in state.items() if not n.rpartition(".")[2].startswith(("running", "num_batches"))]
    assert sum(value.numel() for value in weights) == 1_276_058


def test_what_does_not_fit_is_refused_and_nothing_taken_over():
    network = supernet("darts")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = {name: value + 1 for name, value in reference_state(network).items()}
    name = "cells.0._ops.0._ops.4.op.1.weight"
    for wrong, sentence in (
        ({k: v for k, v in state.items() if k != name}, f"{name} is missing"),
        ({**state, name: state[name][:1]}, rf"{name} is of shape \(1, 1, 3, 3\), here it is \(8, 1, 3, 3\)"),
        ({**state, "stem.0.weigh": state["stem.0.weight"]}, "unknown tensor 'stem.0.weigh'.*'stem.0.weight'"),
    ):
        with pytest.raises(LbgnasError, match=sentence):
            load_reference_state(network, wrong)
    with pytest.raises(LbgnasError, match=r"unknown naming 'dart'.*'darts'"):
        load_reference_state(network, state, "dart")
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    with pytest.raises(LbgnasError, match="is missing"):
        load_reference_state(supernet("pdarts"), reference_state(network), "pdarts")
