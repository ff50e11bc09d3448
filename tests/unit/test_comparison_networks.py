"""DeepMoE and MGE-CNN: what their papers define, by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lbgnas.config import validated
from lbgnas.data.sources import open_test
from lbgnas.engine.grouped_model import load_model
from lbgnas.engine.groups import GroupTraining
from lbgnas.errors import LbgnasError
from lbgnas.group_settings import GroupSettings
from lbgnas.networks.comparison import build_comparison
from lbgnas.networks.counting import count_parameters
from lbgnas.networks.fixed import fixed_network, parameters
from lbgnas.networks.mge_cnn import Heads, attention, cropped, wrong_class_divergence
from tests.unit.test_group_training import SMALL

SINGLE = fixed_network("resnet18", 3, 4, 16, width=4)
IMAGES, LABELS = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0, 1])


@pytest.fixture
def deepmoe():
    torch.manual_seed(0)
    return build_comparison("deepmoe", SINGLE)


@pytest.fixture
def mge():
    torch.manual_seed(0)
    return build_comparison("mge-cnn", SINGLE)


def test_gates_of_one_make_deepmoe_its_base(deepmoe):
    deepmoe.eval()
    for gate in deepmoe.gates:
        torch.nn.init.zeros_(gate.weight)
        torch.nn.init.ones_(gate.bias)
    assert torch.allclose(deepmoe(IMAGES), deepmoe.network(IMAGES), atol=1e-6)
    torch.nn.init.zeros_(deepmoe.gates[1].bias)
    assert not torch.allclose(deepmoe(IMAGES), deepmoe.network(IMAGES), atol=1e-3)


def test_deepmoe_has_a_gate_for_every_convolution_but_shortcuts(deepmoe):
    widths = [4] + [4] * 4 + [8] * 4 + [16] * 4 + [32] * 4
    assert [gate.out_features for gate in deepmoe.gates] == widths


def test_deepmoe_loss_by_hand(deepmoe):
    deepmoe.begin_epoch(0, 4)
    deepmoe.eval()
    embedded = deepmoe.embedding(IMAGES).mean((2, 3))
    gates = [F.relu(gate(embedded)) for gate in deepmoe.gates]
    want = F.cross_entropy(deepmoe(IMAGES), LABELS) + F.cross_entropy(deepmoe.embedding_head(embedded), LABELS)
    want = want + 1e-3 * sum(gate.sum() for gate in gates) / 6
    assert deepmoe.training_loss(IMAGES, LABELS).item() == pytest.approx(want.item(), rel=1e-5)


def test_deepmoe_rests_embedding_and_gates_in_its_second_stage(deepmoe):
    deepmoe.train()
    deepmoe.begin_epoch(2, 4)
    before = deepmoe.embedding[1].running_mean.clone()
    deepmoe.training_loss(IMAGES, LABELS).backward()
    for name, value in deepmoe.named_parameters():
        assert (value.grad is None) == name.startswith(("embedding", "gates")), name
    assert torch.equal(before, deepmoe.embedding[1].running_mean)
    deepmoe.begin_epoch(1, 4)
    deepmoe.training_loss(IMAGES, LABELS).backward()
    assert all(value.grad is not None for value in deepmoe.parameters())


def test_attention_is_the_class_activation_map():
    features, weight = torch.rand(2, 3, 4, 4), torch.randn(5, 3)
    whole = torch.tensor([[0.0, 0, 3, 0, 0], [9.0, 0, 0, 0, 0]])
    maps = attention(Heads(whole, whole, whole, features), weight)
    for image, label in ((0, 2), (1, 0)):
        by_hand = sum(weight[label, c] * features[image, c] for c in range(3)).clamp(min=0)
        want = by_hand / by_hand.max() if by_hand.max() > 0 else torch.ones(4, 4)
        assert torch.allclose(maps[image], want, atol=1e-5)
    nothing = attention(Heads(whole, whole, whole, -features), weight.abs())
    assert torch.equal(nothing, torch.ones(2, 4, 4))


def test_the_box_is_cropped_and_scaled():
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    images = torch.cat([ramp, ramp.transpose(2, 3)], 1)
    maps = torch.zeros(1, 4, 4)
    maps[0, 1, 2] = maps[0, 2, 3] = 1  # rows 1 and 2, columns 2 and 3 of 4: pixels 2 to 5 and 4 to 7 of 8
    found = cropped(images, maps)
    assert found.shape == images.shape
    centres = torch.arange(8) / 2 + 0.25 - 0.5
    assert torch.allclose(found[0, 0, 3], (4 + centres).clamp(max=7.0), atol=1e-5)
    assert torch.allclose(found[0, 1, :, 3], 2 + centres, atol=1e-5)
    assert torch.allclose(cropped(images, torch.ones(1, 4, 4)), images, atol=1e-5)


def test_divergence_leaves_the_true_class_out():
    torch.manual_seed(0)
    logits, before, labels = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([1, 0, 3])
    p, q = logits.softmax(1), before.softmax(1)
    for n, value in enumerate(wrong_class_divergence(logits, before, labels)):
        want = sum(q[n, c] * torch.log(q[n, c] / p[n, c]) for c in range(4) if c != labels[n])
        assert value.item() == pytest.approx(want.item(), rel=1e-5)


def test_mge_loss_and_answer_by_hand(mge):
    mge.eval()
    every = mge._heads(IMAGES)
    share = mge.gate_head(F.relu(mge.gate(IMAGES))).softmax(1)
    answer = sum(share[:, t, None] * every[t].both for t in range(3))
    assert torch.allclose(mge(IMAGES), answer, atol=1e-5)
    want = F.cross_entropy(answer, LABELS)
    want = want + sum(F.cross_entropy(logits, LABELS) for heads in every for logits in heads[:3])
    for t in (1, 2):
        want = want + torch.exp(-wrong_class_divergence(every[t].both, every[t - 1].both, LABELS)).mean()
    assert mge.training_loss(IMAGES, LABELS).item() == pytest.approx(want.item(), rel=1e-5)


def test_the_gated_answer_of_mge_trains_the_gate_alone(mge):
    F.cross_entropy(mge(IMAGES), LABELS).backward()
    for name, value in mge.named_parameters():
        assert (value.grad is not None) == name.startswith("gate"), name
    mge.training_loss(IMAGES, LABELS).backward()
    assert all(value.grad is not None for value in mge.parameters())


@pytest.mark.parametrize("kind", ["deepmoe", "mge-cnn"])
def test_sizes_are_about_those_of_the_single_network(kind):
    single = fixed_network("resnet56", 3, 10, 32)
    assert 0.8 < count_parameters(build_comparison(kind, single)) / parameters(single) < 1.5


@pytest.mark.parametrize("kind", ["deepmoe", "mge-cnn"])
def test_they_are_trained_and_loaded_like_all_others(kind, tmp_path):
    run = GroupTraining(validated(GroupSettings, {**SMALL, "method": kind}, "test"), tmp_path)
    measures = run.run()
    test = open_test("coloured-digits", limit=60)
    found = load_model(tmp_path).predict(test.images(torch.arange(60))).probabilities.argmax(1)
    assert float((found == test.labels).float().mean()) == pytest.approx(measures.routed)


def test_other_bases_are_refused():
    with pytest.raises(LbgnasError, match="--experts swin_t: mge-cnn is built on resnet18 or resnet56 only"):
        build_comparison("mge-cnn", fixed_network("swin_t", 3, 4, 32))
