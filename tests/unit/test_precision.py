from __future__ import annotations

import pytest
import torch

from benchmarks.counts import saved_bytes
from lbgnas.bases.base import find_base
from lbgnas.batch_statistics import BatchStatistics
from lbgnas.config import SearchSettings
from lbgnas.data.image_data import DataInfo
from lbgnas.engine.plan import Plan, build_experts, space_of
from lbgnas.errors import LbgnasError
from lbgnas.grouping.adaptation import Adaptation, mmd
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.hypergradient import Exact, FirstOrder
from lbgnas.grouping.levels import Levels
from lbgnas.grouping.sgd import Sgd
from lbgnas.grouping.unrolled import unrolled_step
from lbgnas.networks.supernet import Supernet
from lbgnas.operations.normalised import normalised
from lbgnas.operations.orders import PIXELS, Way
from lbgnas.space import load_space

SGD = Sgd(0.05, 0.9, 1e-3, 1.0)


def samples(seed, count=16, size=8):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=draw)
    images = torch.randn(count, 3, size, size, generator=draw) + labels[:, None, None, None]
    return images, labels, torch.arange(count)


def step(space, compute, **levels):
    """Return what one step finds, and the experts."""
    torch.manual_seed(0)
    modules = [Supernet(load_space(space), 3, 8, 3).to(memory_format=torch.channels_last) for _ in range(2)]
    gate = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    logits = torch.randn(16, 2)
    experts = Experts(modules, tuple(modules[0].architecture_parameters()), "classifier", compute=compute)
    experts.seed = 1
    return unrolled_step(experts, gate, logits, samples(1), samples(2), Levels(SGD, SGD, **levels)), experts


def cosine(one, two):
    one, two = (torch.cat([value.flatten() for value in values]).double() for values in (one, two))
    return float(one @ two / (one.norm() * two.norm()))


@pytest.mark.parametrize(
    ("space", "levels"),
    [
        ("darts", {"hypergradient": Exact(), "adaptation": Adaptation(mmd, 0.3)}),
        ("pcdarts", {"hypergradient": Exact()}),
        ("pcdarts", {"hypergradient": Exact("reverse"), "mixture": True}),
        ("pcdarts", {"hypergradient": FirstOrder()}),
    ],
    ids=["darts-forward", "pcdarts-forward", "pcdarts-reverse", "pcdarts-first-order"],
)
def test_a_step_in_bfloat16_goes_where_the_one_in_float32_goes(space, levels):
    whole, _ = step(space, None, **levels)
    half, experts = step(space, torch.bfloat16, **levels)
    assert cosine([half.assignment_gradient], [whole.assignment_gradient]) > 0.99
    assert len(whole.architecture_gradients) == 2
    for index, own in whole.architecture_gradients.items():
        found = half.architecture_gradients[index]
        assert cosine(found.values(), own.values()) > 0.95
        assert {value.dtype for value in found.values()} == {torch.float32}
        before = experts.weights(index)
        moved = [
            [after[name] - before[name] for name in after] for after in (half.experts[index], whole.experts[index])
        ]
        assert {value.dtype for value in moved[0]} == {torch.float32}
        assert cosine(*moved) > 0.95
    assert abs(half.losses.validation - whole.losses.validation) < 0.02


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("rows", [4, 3])
def test_small_variances_beside_large_means_are_seen(plain, rows):
    torch.manual_seed(0)
    block = (8 + torch.randn(2, 3, 4 * 25)).to(torch.bfloat16)
    weight = torch.randn(2, 5, 3)
    weight[:, 0] = torch.tensor([1.0, -1.0, 0.0])  # the means cancel
    way = Way(False, PIXELS, 4, rows)
    blocks = [block.requires_grad_()]
    (output,), *_ = normalised(way, weight.requires_grad_(), None, blocks, plain=plain)
    slope = torch.randn_like(output)
    found = torch.autograd.grad(output, [weight, block], slope)

    exactly = [block.detach().double().requires_grad_()]
    again = weight.detach().double().requires_grad_()
    (wanted,), *_ = normalised(way, again, None, exactly, plain=True)
    gradients = torch.autograd.grad(wanted, [again, exactly[0]], slope.double())
    assert output.dtype == torch.bfloat16
    for one, other in zip((output, *found), (wanted, *gradients), strict=True):
        assert (one.double() - other).norm() < 0.02 * other.norm()


def test_it_keeps_little_more_than_half():
    images = torch.randn(8, 3, 16, 16)

    def kept(compute):
        net = Supernet(load_space("darts"), 3, 8, 3).to(memory_format=torch.channels_last)
        experts = Experts([net], tuple(net.architecture_parameters()), compute=compute)
        weights, architecture = (
            {name: value.requires_grad_() for name, value in part.items()}
            for part in (experts.weights(0), experts.architecture(0))
        )
        policy = BatchStatistics(update=False)
        own = [*weights.values(), *architecture.values(), *net.buffers(), images]
        return saved_bytes(lambda: experts.call(0, weights, architecture, images, policy)[0].sum(), own)

    assert kept(torch.bfloat16) < 0.65 * kept(None)


def test_running_statistics_stay_in_float32():
    nets = []
    for compute in (None, torch.bfloat16):
        _, experts = step("darts", compute)
        nets.append(experts.modules[0])
    for (name, whole), half in zip(nets[0].named_buffers(), nets[1].buffers(), strict=True):
        assert whole.dtype == half.dtype, name
        if whole.is_floating_point():
            assert (whole - half).abs().max() < 0.02 * (1 + whole.abs().max()), name


def test_finite_differences_are_refused():
    base = find_base("pcdarts")
    refused, taken = (SearchSettings(precision="bfloat16", hypergradient=name) for name in ("fd", "exact"))
    with pytest.raises(LbgnasError, match=r"precision: bfloat16 .* hypergradient fd.*exact"):
        Plan(refused, base, space_of(refused, base))
    plan = Plan(taken, base, space_of(taken, base))
    info = DataInfo("tiny", 2, ("a", "b"), 3, 8, (0.0,) * 3, (1.0,) * 3)
    assert build_experts(plan, [plan.space], 0, info, torch.device("cpu")).compute == torch.bfloat16
