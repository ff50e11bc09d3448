"""The benchmarks' peers compute what the product computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from benchmarks import subjects
from benchmarks.counts import count_operations, saved_bytes
from benchmarks.reference.network import ReferenceNetwork
from benchmarks.reference.stacked import ReferenceStacked
from benchmarks.reference.steps import ReferenceSearch
from lbgnas.genotype import published
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.hypergradient import FiniteDifference
from lbgnas.grouping.learner import Learner
from lbgnas.grouping.levels import Levels
from lbgnas.grouping.sgd import Sgd
from lbgnas.networks.conversion import reference_tensors as named_tensors
from lbgnas.networks.counting import count_macs
from lbgnas.networks.stacked import StackedNetwork
from lbgnas.networks.supernet import Supernet
from lbgnas.space import load_space

pytestmark = pytest.mark.usefixtures("float64")


def samples(seed, batch=3, size=8):
    draw = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, 3, size, size, generator=draw),
        torch.randint(10, (batch,), generator=draw),
        torch.arange(batch),
    )


@pytest.mark.parametrize("space", ["darts", "pcdarts"])
def test_reference_network_equals_the_supernet_in_output_and_gradients(space):
    net = subjects.supernet(space, 3, 8)
    reference = ReferenceNetwork(net)
    images, labels, _ = samples(1)
    outputs = [module(images) for module in (net, reference)]
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)
    for output in outputs:
        F.cross_entropy(output, labels).backward()
    for own, other in zip(net.architecture_parameters().values(), reference.architecture(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-10, atol=1e-10)
    slopes = {name: value.grad for name, value in reference.named_parameters()}
    with torch.no_grad():  # the same views of gradients as of weights
        for value in net.parameters():
            value.copy_(value.grad)
    compared = {name: value for name, value in named_tensors(net) if name in slopes}
    assert len(compared) == len(reference.weights())
    for name, value in compared.items():
        torch.testing.assert_close(value, slopes[name].view_as(value), rtol=1e-10, atol=1e-10)


def test_reference_step_equals_the_bases_own_step():
    net = subjects.supernet("darts", 3, 4)
    search = ReferenceSearch(ReferenceNetwork(net))
    learner = Learner(Experts([net], tuple(net.architecture_parameters()), "classifier"), None, None)
    levels = Levels(gate=Sgd(0.1), experts=Sgd(0.025, 0.9, 3e-4, 5.0), hypergradient=FiniteDifference())
    for seed in (0, 1):
        train, validation = samples(2 * seed), samples(2 * seed + 1)
        search.step(train[:2], validation[:2])
        learner.bilevel_step(train, validation, levels)
    for own, other in zip(net.architecture_parameters().values(), search.net.architecture(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(net.classifier.weight, search.net.classifier.weight, rtol=1e-7, atol=1e-9)


def test_reference_stacked_network_equals_the_evaluation_network():
    net = StackedNetwork(published("DARTS_V2").experts[0], num_cells=3, channels=4, num_classes=10)
    images, _, _ = samples(1)
    torch.testing.assert_close(ReferenceStacked(net)(images), net(images).logits, rtol=1e-10, atol=1e-10)


def test_counts_know_views_and_count_a_storage_once():
    weight = torch.ones(4, requires_grad=True)
    x = torch.ones(3, 4)

    def run():
        product = x * weight  # saves x and weight
        return product.view(12).exp().sum() + product.exp().sum()  # saves both results of exp

    assert saved_bytes(run, [weight, x]) == 2 * 12 * 8
    assert sum(count_operations(run).values()) == 6


@pytest.mark.parametrize(
    ("space", "macs"),
    [
        ("darts", 300_255_744),
        ("pcdarts", 56_596_992),
        ("darts-minus-s1", 68_434_432),
        ("darts-minus-s2", 100_928_000),
    ],
)
def test_the_peer_costs_what_the_published_supernet_costs(space, macs):
    """MACs at 32 px without the auxiliary skip; the product's own are fewer, for it multiplies folded matrices."""
    net = Supernet(load_space(space).with_auxiliary_skip(None), 8, 16, 10)
    assert count_macs(ReferenceNetwork(net), 3, 32) == macs
