"""Supernets against the published implementations: logits, loss, slopes of the architecture, parameter counts."""

from __future__ import annotations

import pytest
import torch

from lbgnas.networks.supernet import Supernet
from lbgnas.operations.orders import PIXELS, SAMPLES
from lbgnas.space import CANDIDATES, load_space
from tests.golden import reference


def only(*columns):
    space = load_space("pdarts")
    names = tuple(CANDIDATES[column] for column in columns)
    return space.with_operations(dict.fromkeys(("normal", "reduce"), (names,) * 14))


SPACES = {"s1": "darts-minus-s1", "s2": "darts-minus-s2", "s3": "darts-minus-s3", "s5": "darts-minus-s0"}
NETS = [
    ("golden_darts", "supernet.darts.C8.L5", load_space("darts"), 8, 5, 32),
    ("golden_darts", "supernet.darts.C16.L8", load_space("darts"), 16, 8, 32),
    ("golden_pc", "supernet.pcdarts.K4.C8.L5", load_space("pcdarts"), 8, 5, 32),
    ("golden_pc", "supernet.pcdarts.K4.C16.L8", load_space("pcdarts"), 16, 8, 32),
    ("golden_pc", "supernet.pcdarts.imagenet.K2.C8.L5.input64", load_space("pcdarts-imagenet"), 8, 5, 64),
    ("golden_pdarts", "supernet.pdarts.C8.L5.8ops", load_space("pdarts"), 8, 5, 32),
    ("golden_pdarts", "supernet.pdarts.C8.L5.ops0,3,4,5,6", only(0, 3, 4, 5, 6), 8, 5, 32),
    ("golden_pdarts", "supernet.pdarts.C8.L5.ops3,4,6", only(3, 4, 6), 8, 5, 32),
    *[
        ("golden_dm", key, load_space(SPACES[key.split(".")[2]]), 8, 5, 32)
        for key in reference.golden("golden_dm")
        if key.startswith("supernet")
    ],
]


@pytest.mark.parametrize(("file", "key", "space", "channels", "cells", "size"), NETS, ids=[net[1] for net in NETS])
def test_supernet_equals_reference(float64, file, key, space, channels, cells, size):
    expected = reference.golden(file)[key]
    net = Supernet(space, cells, channels, num_classes=10)
    reference.fill(net, "pdarts" if "pdarts" in key else "darts")
    reference.arch_values(net)
    if "beta=" in key:
        net.auxiliary_weight = float(key.rsplit("=")[-1])
    x = reference.images(0, size=size)
    net.eval()
    reference.assert_summary(net(x), expected["eval_logits"])
    net.train()
    logits = net(x)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([3, 7]))
    reference.assert_summary(logits, expected["train_logits"])
    reference.assert_close(loss.item(), expected["train_loss"])
    grads = torch.autograd.grad(loss, list(net.architecture_parameters().values()))
    for grad, wanted in zip(grads, expected["arch_grads"], strict=True):
        reference.assert_summary(grad, wanted)


def minus(name, auxiliary):
    space = load_space(f"darts-minus-{name}")
    return space.model_copy(update={"auxiliary_skip": auxiliary})


COUNTS = [
    ("darts", load_space("darts"), 16, 8, 10, 1_930_618, 224),
    ("darts, 100 classes", load_space("darts"), 16, 8, 100, 1_953_748, 224),
    ("darts, 20 cells", load_space("darts"), 16, 20, 10, 4_548_730, 224),
    ("darts, small", load_space("darts"), 4, 3, 10, 72_854, 224),
    ("pcdarts", load_space("pcdarts"), 16, 8, 10, 299_578, 252),
    ("pcdarts, 100 classes", load_space("pcdarts"), 16, 8, 100, 322_708, 252),
    ("pcdarts-imagenet, 1000 classes", load_space("pcdarts-imagenet"), 16, 8, 1000, 956_512, 252),
    ("pcdarts-imagenet", load_space("pcdarts-imagenet"), 16, 8, 10, 702_082, 252),
    ("pdarts, stage 1", load_space("pdarts"), 16, 5, 10, 1_275_834, 224),
    ("pdarts, 8 cells", load_space("pdarts"), 16, 8, 10, 1_930_618, 224),
    ("pdarts, stage 2, none skip s3 s5 d3", only(0, 3, 4, 5, 6), 16, 11, 10, 2_136_474, 140),
    ("pdarts, stage 2, skip s3 s5 d3 d5", only(3, 4, 5, 6, 7), 16, 11, 10, 2_585_146, 140),
    ("pdarts, stage 2, none mp ap skip s3", only(0, 1, 2, 3, 4), 16, 11, 10, 887_226, 140),
    ("pdarts, stage 3, none skip s3", only(0, 3, 4), 16, 17, 10, 1_330_746, 84),
    ("pdarts, stage 3, skip s3 d3", only(3, 4, 6), 16, 17, 10, 1_861_402, 84),
    ("pdarts, stage 3, s3 s5 d5", only(4, 5, 7), 16, 17, 10, 3_322_586, 84),
    ("s0", minus("s0", "skip"), 16, 8, 10, 1_971_578, 224),
    ("s0, no auxiliary", minus("s0", None), 16, 8, 10, 1_930_618, 224),
    ("s0, convolution", minus("s0", "conv"), 16, 8, 10, 2_152_826, 224),
    ("s1", minus("s1", "skip"), 16, 8, 10, 446_106, 56),
    ("s1, no auxiliary", minus("s1", None), 16, 8, 10, 405_146, 56),
    ("s2", minus("s2", "skip"), 16, 8, 10, 706_426, 56),
    ("s2, no auxiliary", minus("s2", None), 16, 8, 10, 665_466, 56),
    ("s3", minus("s3", "skip"), 16, 8, 10, 706_426, 84),
    ("s3, no auxiliary", minus("s3", None), 16, 8, 10, 665_466, 84),
    ("s4", minus("s4", "skip"), 16, 8, 10, 665_466, 56),
    ("s4, no auxiliary", minus("s4", None), 16, 8, 10, 624_506, 56),
]  # fmt: skip


@pytest.mark.parametrize(
    ("space", "channels", "cells", "classes", "weights", "architecture"),
    [row[1:] for row in COUNTS],
    ids=[row[0] for row in COUNTS],
)
def test_parameter_counts(space, channels, cells, classes, weights, architecture):
    with torch.device("meta"):
        net = Supernet(space, cells, channels, classes)
    assert sum(p.numel() for p in net.weight_parameters().values()) == weights
    assert sum(p.numel() for p in net.architecture_parameters().values()) == architecture


def test_auxiliary_skip_of_weight_zero_is_darts(float64):
    """The published check of the two against each other, here on our own networks."""
    plain = Supernet(load_space("darts"), 3, 4, 10)
    beside = Supernet(load_space("darts-minus-s0"), 3, 4, 10)
    beside.auxiliary_weight = 0.0
    for net in (plain, beside):
        reference.fill(net)
        reference.arch_values(net)
    x = reference.images(0, size=8)
    assert torch.allclose(plain(x), beside(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [PIXELS, SAMPLES])
@pytest.mark.parametrize(("channels", "groups"), [(8, 4), (8, 2), (16, 4)])
def test_channel_shuffle_equals_reference(order, channels, groups):
    mixed = order.shuffle(torch.arange(float(channels)).reshape(1, channels, 1, 1), groups).flatten().tolist()
    assert mixed == reference.golden("golden_pc")[f"channel_shuffle.{channels}.g{groups}"]
