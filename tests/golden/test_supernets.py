from __future__ import annotations

import pytest
import torch

from lbgnas.networks.supernet import Supernet
from lbgnas.space import load_space
from tests.golden import reference

NETS = [
    ("golden_darts", "supernet.darts.C8.L5", "darts", 8, 5, 32, 10),
    ("golden_darts", "supernet.darts.C16.L8", "darts", 16, 8, 32, 10),
    ("golden_pc", "supernet.pcdarts.K4.C8.L5", "pcdarts", 8, 5, 32, 10),
    ("golden_pc", "supernet.pcdarts.K4.C16.L8", "pcdarts", 16, 8, 32, 10),
    ("golden_pc", "supernet.pcdarts.imagenet.K2.C8.L5.input64", "pcdarts-imagenet", 8, 5, 64, 10),
]


@pytest.mark.parametrize(("file", "key", "space", "channels", "cells", "size", "classes"), NETS)
def test_supernet_equals_reference(float64, file, key, space, channels, cells, size, classes):
    expected = reference.golden(file)[key]
    net = Supernet(load_space(space), cells, channels, classes)
    reference.fill(reference.supernet(net))
    reference.arch_values(net)
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


@pytest.mark.parametrize(
    ("space", "channels", "cells", "classes", "weights", "architecture"),
    [
        ("darts", 16, 8, 10, 1_930_618, 224),
        ("darts", 16, 8, 100, 1_953_748, 224),
        ("darts", 16, 20, 10, 4_548_730, 224),
        ("darts", 4, 3, 10, 72_854, 224),
        ("pcdarts", 16, 8, 10, 299_578, 252),
        ("pcdarts", 16, 8, 100, 322_708, 252),
        ("pcdarts-imagenet", 16, 8, 1000, 956_512, 252),
        ("pcdarts-imagenet", 16, 8, 10, 702_082, 252),
    ],
)
def test_parameter_counts(space, channels, cells, classes, weights, architecture):
    net = Supernet(load_space(space), cells, channels, classes)
    assert sum(p.numel() for p in net.weight_parameters().values()) == weights
    assert sum(p.numel() for p in net.architecture_parameters().values()) == architecture
