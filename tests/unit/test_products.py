"""Depthwise convolutions and normalised products: values and derivatives of every order against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.profiler import ProfilerActivity, profile

from benchmarks import subjects
from benchmarks.counts import count_operations
from benchmarks.reference.network import ReferenceNetwork
from benchmarks.reference.stacked import ReferenceStacked
from lbgnas.batch_statistics import BatchStatistics
from lbgnas.grouping.hypergradient import Exact
from lbgnas.grouping.objectives import cross_entropy
from lbgnas.networks.conversion import reference_tensors as named_tensors
from lbgnas.operations.depthwise import DepthwiseConv, depthwise
from lbgnas.operations.normalised import normalised
from lbgnas.operations.orders import PIXELS, SAMPLES, Kernels, Way, order_for

pytestmark = pytest.mark.usefixtures("float64")


def leaf(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-11)


KERNELS = [(3, 1), (5, 1), (7, 1), (3, 2), (5, 2)]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(6, 8), (4, 2), (7, 5)], ids=str)
@pytest.mark.parametrize("order", [PIXELS, SAMPLES], ids=["pixels", "samples"])
def test_depthwise_of_several_kinds_equals_torch(order, size, stride):
    channels, edges = 2, 3
    x = leaf(3, channels, *size)
    weights = [leaf(edges * channels, 1, kernel, kernel, seed=kernel) for kernel, _ in KERNELS]
    kernels = [Kernels(w, dilation) for w, (_, dilation) in zip(weights, KERNELS, strict=True)]
    blocks = order.first(order.enter(x), kernels, stride)
    rows, columns = (-(-side // stride) for side in size)
    outputs = [order.images(block, 3, rows, columns).flatten(1, 2) for block in blocks]
    expected = [
        F.conv2d(x.repeat(1, edges, 1, 1), w, None, stride, d * (k // 2), d, edges * channels)
        for w, (k, d) in zip(weights, KERNELS, strict=True)
    ]
    close(outputs, expected)
    slopes = [leaf(*value.shape, seed=9).detach() for value in expected]
    close(torch.autograd.grad(outputs, [x, *weights], slopes), torch.autograd.grad(expected, [x, *weights], slopes))


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 2), (5, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_has_exact_derivatives_of_every_kind(kernel, dilation, stride):
    x, weight = leaf(1, 1, 4, 4), leaf(2, 1, kernel, kernel, seed=1)

    def run(x, weight):
        return depthwise(x, stride, (dilation,), weight)[0]

    assert torch.autograd.gradcheck(run, (x, weight), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(run, (x, weight), check_fwd_over_rev=False)


def stock(order, weight, scale, blocks, rows, relu):
    """Pointwise convolution by einsum, batch norm by its definition over the first samples."""
    results = []
    start = 0
    for block in blocks:
        part = slice(start, start + len(block))
        start += len(block)
        y = torch.einsum("moc,mcq->moq", weight[part], block)
        own = order.own(y, 3, rows)
        normal = (y - own.mean(2, keepdim=True)) / (own.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
        results.append(normal.relu() if relu else normal * scale[part])
    return results if relu else [sum(results)]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("rows", [3, 2])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("order", [PIXELS, SAMPLES], ids=["pixels", "samples"])
def test_normalised_products_equal_convolution_and_batch_norm(order, relu, rows, plain):
    images = [leaf(3, 8, 2, 2, seed=seed) for seed in (1, 2)]
    weight, scale = leaf(4, 5, 4), leaf(4, 1, 1, seed=3)
    wanted = [*images, weight, *([] if relu else [scale])]
    blocks = [order.blocks(order.enter(image), 2) for image in images]
    way = Way(relu, order, 3, rows)
    outputs, mean, var = normalised(way, weight, None if relu else scale, blocks, plain)
    expected = stock(order, weight, scale, blocks, rows, relu)
    close(outputs, expected)
    y = torch.einsum("moc,mcq->moq", weight, torch.cat([order.own(block, 3, rows) for block in blocks]))
    close((mean, var), (y.mean(2, keepdim=True), y.var(2, correction=0, keepdim=True)))
    slopes = [leaf(*value.shape, seed=9).detach() for value in expected]
    found = [torch.autograd.grad(values, wanted, slopes, create_graph=True) for values in (outputs, expected)]
    close(*found)
    # A backward through the backward.
    close(*(torch.autograd.grad(sum((g**3).sum() for g in grads), wanted, retain_graph=True) for grads in found))


@pytest.mark.parametrize(
    ("space", "size", "batch"), [("darts", 16, 2), ("darts", 4, 3), ("pcdarts", 8, 4)], ids=["pixels", "samples", "pc"]
)
def test_exact_hypergradient_equals_double_backward_through_plain_modules(space, size, batch):
    net = subjects.supernet(space, 3, 8 if space == "pcdarts" else 4)
    reference = ReferenceNetwork(net)
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, size, size, generator=draw)
    labels = torch.randint(10, (batch,), generator=draw)
    weights = {name: value.detach() for name, value in net.weight_parameters().items()}
    direction = {name: torch.randn(value.shape, generator=draw) for name, value in weights.items()}
    alphas = {name: value.detach().clone().requires_grad_() for name, value in net.architecture_parameters().items()}

    def loss(weights, composed):
        with BatchStatistics(update=False, composed=composed):
            return cross_entropy(functional_call(net, {**weights, **alphas}, (images,)), labels).mean()

    wanted = list(alphas.values())
    found = Exact().mixed(loss, weights, direction, wanted)
    again = Exact("reverse").mixed(loss, weights, direction, wanted)
    for value, expected in zip(found, again, strict=True):
        assert (value - expected).abs().max() <= 1e-11 * expected.abs().max()

    with torch.no_grad():  # the direction under the reference's names: the same views of it as of the weights
        for name, value in net.named_parameters():
            if name in direction:
                value.copy_(direction[name])
    known = dict(reference.named_parameters())
    along = {name: value.clone().view_as(known[name]) for name, value in named_tensors(net) if name in known}
    gradient = torch.autograd.grad(
        cross_entropy(reference(images), labels).mean(), [known[name] for name in along], create_graph=True
    )
    slope = sum((g * u).sum() for g, u in zip(gradient, along.values(), strict=True))
    for value, expected in zip(found, torch.autograd.grad(slope, reference.architecture()), strict=True):
        assert (value - expected).abs().max() <= 1e-11 * expected.abs().max()


@pytest.mark.parametrize("space", ["darts", "pcdarts"])
def test_no_pass_of_an_expert_waits_for_a_device(space):
    net = subjects.supernet(space, 3, 8)
    images = torch.randn(2, 3, 8, 8)
    weights = {name: value.detach() for name, value in net.weight_parameters().items()}
    alphas = {name: value.detach().requires_grad_() for name, value in net.architecture_parameters().items()}

    def loss(weights, composed):
        with BatchStatistics(update=False, composed=composed):
            return functional_call(net, {**weights, **alphas}, (images,)).square().sum()

    def run():
        net(images).square().sum().backward()
        Exact().mixed(loss, weights, weights, list(alphas.values()))

    waiting = ("_local_scalar_dense", "nonzero", "item", "masked_select", "unique")
    calls = count_operations(run)
    assert sum(calls.values()) > 1000
    assert not [name for name in calls if any(word in name for word in waiting)]


def test_small_images_take_samples_last_and_large_ones_pixels():
    assert order_for(torch.empty(64, 1, 1, 1), 8, 8) is SAMPLES
    assert order_for(torch.empty(2, 1, 1, 1), 4, 4) is SAMPLES
    assert order_for(torch.empty(8, 1, 1, 1), 8, 8) is PIXELS
    assert order_for(torch.empty(64, 1, 1, 1), 16, 16) is PIXELS


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(2, 2), (3, 3), (4, 4), (4, 2), (8, 6)], ids=str)
@pytest.mark.parametrize(("kernel", "dilation"), KERNELS)
def test_a_depthwise_convolution_has_the_value_and_derivatives_of_torchs(kernel, dilation, size, stride):
    own = DepthwiseConv(3, kernel, stride, dilation)
    stock = nn.Conv2d(3, 3, kernel, stride, dilation * (kernel // 2), dilation, groups=3, bias=False)
    stock.load_state_dict(own.state_dict())
    x = leaf(4, 3, *size)
    slope = leaf(*stock(x).shape, seed=1).detach()
    close(own(x), stock(x))
    close(*(torch.autograd.grad(net(x), [x, net.weight], slope) for net in (own, stock)))


@pytest.mark.parametrize(
    ("kernel", "dilation", "side", "call"), [(3, 2, 8, "_DepthwiseBackward"), (5, 1, 4, "aten::bmm")]
)
def test_a_depthwise_convolution_is_torchs_where_nothing_is_learned(kernel, dilation, side, call):
    def calls(run):
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            run()
        return {event.name for event in seen.events()}

    net = DepthwiseConv(3, kernel, 1, dilation)
    x = torch.randn(4, 3, side, side)
    assert call in calls(lambda: net(x).sum().backward())
    with torch.no_grad():
        assert call not in calls(lambda: net(x))


@pytest.mark.parametrize(("kernel", "dilation", "side"), [(3, 2, 8), (5, 1, 4)])
def test_a_depthwise_convolution_is_torchs_under_autocast(kernel, dilation, side):
    net = DepthwiseConv(3, kernel, 1, dilation).float()
    x = torch.randn(4, 3, side, side, dtype=torch.float32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert net.weight.grad.dtype == x.grad.dtype == torch.float32


def test_the_plain_network_to_compare_with_has_torchs_convolutions():
    parts = list(ReferenceStacked(subjects.stacked()).modules())
    assert not any(isinstance(part, DepthwiseConv) for part in parts)
    assert any(isinstance(part, nn.Conv2d) and part.dilation == (2, 2) for part in parts)
