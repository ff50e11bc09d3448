"""Fixed experts and the gates to choose from: sizes, published forms, derivatives, weights taken over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lbgnas.errors import LbgnasError
from lbgnas.grouping.adaptation import Adaptation, find_distance
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.hypergradient import Exact
from lbgnas.grouping.sgd import Sgd
from lbgnas.grouping.unrolled import Levels, unrolled_step
from lbgnas.networks.fixed import PUBLISHED, fixed_network, from_dict, parameters, shared_out
from lbgnas.networks.gates import NearestGate, RandomGate, make_gate
from lbgnas.networks.pretrained import pretrained_weights, take_over

WIDTHS = {"resnet18": 4, "resnet56": 4, "swin_t": 8, "t2t_vit_14": 12}


def small(name: str, in_channels: int = 3, outputs: int = 4, size: int = 16, experts: int = 2):
    return shared_out(fixed_network(name, in_channels, outputs, size, WIDTHS[name]), experts)


@pytest.mark.parametrize(
    ("name", "size", "outputs", "published"),
    [
        # torchvision's and the T2T-ViT paper's (in millions); ResNet-56 as in its paper, plus two projections.
        ("resnet18", 224, 1000, 11_689_512),
        ("swin_t", 224, 1000, 28_288_354),
        ("t2t_vit_14", 224, 1000, 21.5e6),
        ("resnet56", 32, 10, 0.85e6),
    ],
)
def test_published_sizes(name, size, outputs, published):
    found = parameters(fixed_network(name, 3, outputs, size))
    assert found == published if isinstance(published, int) else found == pytest.approx(published, rel=0.01)


def test_resnet18_is_torchvisions():
    from torchvision.models import resnet18

    torch.manual_seed(0)
    theirs, ours = resnet18(num_classes=5), fixed_network("resnet18", 3, 5, 96).build()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 96, 96)
    assert torch.allclose(ours.eval()(images), theirs.eval()(images), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "experts", "depths"),
    [("resnet56", 2, (5, 5, 4)), ("t2t_vit_14", 2, (7,)), ("t2t_vit_14", 1, (14,)), ("resnet18", 2, (2, 2, 1, 1))],
)
def test_depth_is_shared_out(name, experts, depths):
    single = fixed_network(name, 3, 10, 32)
    each = shared_out(single, experts)
    assert each.depths == depths
    assert 0.85 < experts * parameters(each) / parameters(single) < 1.15


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("in_channels", [1, 3])
def test_every_parameter_gets_a_gradient(name, in_channels):
    torch.manual_seed(0)
    network = small(name, in_channels).build()
    logits = network(torch.randn(3, in_channels, 16, 16))
    assert logits.shape == (3, 4)
    logits.square().sum().backward()
    for label, value in network.named_parameters():
        assert value.grad is not None, label
        assert torch.isfinite(value.grad).all(), label
    assert sum(bool(value.grad.any()) for value in network.parameters()) > 0.9 * len(list(network.parameters()))


@pytest.mark.parametrize("name", PUBLISHED)
def test_hypergradients_of_fixed_experts_are_exact(float64, name):
    """Forward mode through the network agrees with a backward through the unrolled steps, with adaptation."""
    torch.manual_seed(1)
    experts = Experts([small(name, size=8).build() for _ in range(2)])
    gate = make_gate("linear", 3, 2, 8)
    logits = torch.randn(8, 2)
    draw = torch.Generator().manual_seed(2)
    train, validation = (
        (torch.randn(8, 3, 8, 8, generator=draw), torch.arange(8) % 4, torch.arange(8)) for _ in range(2)
    )
    found = {}
    for mode in ("forward", "reverse"):
        levels = Levels(Sgd(0.5), Sgd(0.1), Exact(mode), Adaptation(find_distance("mmd"), 0.3), architecture=False)
        result = unrolled_step(experts, gate, logits, train, validation, levels)
        assert min(result.losses.train_groups) > 0
        found[mode] = result.assignment_gradient
    assert found["reverse"].norm() > 1e-9
    assert ((found["forward"] - found["reverse"]).norm() / found["reverse"].norm()).item() < 1e-9


def test_library_networks():
    network = fixed_network("torchvision:squeezenet1_1", 1, 4, 32)
    assert network.build()(torch.randn(2, 1, 32, 32)).shape == (2, 4)
    assert shared_out(network, 3) == network
    assert from_dict(network.to_dict(), "x") == network


def test_timm_networks():
    pytest.importorskip("timm")
    for name in ("test_vit", "test_resnet"):
        network = fixed_network(f"timm:{name}", 1, 4, 32).build()
        assert network(torch.randn(2, 1, 32, 32)).shape == (2, 4)
    assert make_gate("timm:test_resnet", 3, 3, 32)(torch.randn(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "width", "message"),
    [
        ("resnet19", None, "--experts: unknown network 'resnet19'; .* did you mean 'resnet18'"),
        ("timm:", None, "unknown network 'timm:'"),
        ("torchvision:resnet18", 8, "--width 8: torchvision:resnet18 has its own"),
    ],
)
def test_unknown_networks(name, width, message):
    with pytest.raises(LbgnasError, match=message):
        fixed_network(name, 3, 4, 32, width)


def test_unknown_library_networks_and_gates():
    with pytest.raises(LbgnasError, match=r"torchvision: unknown network 'resnet19'.*did you mean"):
        fixed_network("torchvision:resnet19", 3, 4, 32).build()
    with pytest.raises(LbgnasError, match=r"--gate: unknown gate 'con'; .* did you mean 'conv'"):
        make_gate("con", 3, 2, 8)


# Gates


@pytest.mark.parametrize("name", ["conv", "resnet8", "linear", "uniform", "random", "nearest"])
def test_a_gate_answers_for_each_sample_alone(name):
    torch.manual_seed(0)
    gate = make_gate(name, 3, 3, 16).train()
    if isinstance(gate, NearestGate):
        gate.centres.normal_()
    images = torch.randn(5, 3, 16, 16)
    together = gate(images)
    assert together.shape == (5, 3)
    alone = torch.cat([gate(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-4)


def test_random_groups_are_even_and_depend_on_the_image():
    torch.manual_seed(0)
    gate = RandomGate(3, 4, 16)
    images = torch.randn(4000, 3, 16, 16)
    group = gate(images).argmax(1)
    assert torch.bincount(group, minlength=4).min() > 900
    changed = gate(images + 0.01 * torch.randn_like(images)).argmax(1)
    assert 0.2 < (changed == group).float().mean() < 0.3


def test_nearest_centre_by_a_loop():
    torch.manual_seed(0)
    gate = NearestGate(1, 3)
    gate.centres.normal_()
    images = torch.randn(6, 1, 16, 16)
    for image, logits in zip(images, gate(images), strict=True):
        means = [image[0, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean() for r in range(8) for c in range(8)]
        distances = [float(((torch.stack(means) - centre) ** 2).sum()) for centre in gate.centres]
        assert logits.tolist() == pytest.approx([-value / 2 for value in distances], rel=1e-4)


# Weights to start from


@pytest.mark.parametrize("kind", ["safetensors", "torch", "nested"])
def test_weights_of_a_deeper_network_are_taken_over(tmp_path: Path, kind):
    torch.manual_seed(0)
    deep, shallow = small("resnet56", outputs=9, experts=1).build(), small("resnet56").build()
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(deep.state_dict(), path)
    else:
        torch.save({"state_dict": deep.state_dict()} if kind == "nested" else deep.state_dict(), path)
    before = shallow.fc.weight.clone()
    taken = take_over(shallow, pretrained_weights(str(path), "resnet56"), "x")
    assert taken == sum(value.numel() for name, value in shallow.named_parameters() if not name.startswith("fc"))
    assert torch.equal(shallow.layer2[1].conv1.weight, deep.layer2[1].conv1.weight)
    assert torch.equal(shallow.layer1[0].bn1.running_var, deep.layer1[0].bn1.running_var)
    assert torch.equal(shallow.fc.weight, before)


def test_weights_that_do_not_fit(tmp_path: Path, monkeypatch):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.ones(2)}, path)
    with pytest.raises(LbgnasError, match=r"fits 0 of .* parameters by name and shape"):
        take_over(small("resnet56").build(), pretrained_weights(str(path), "resnet56"), "x")
    torch.save([1, 2], path)
    with pytest.raises(LbgnasError, match="holds no weights by name"):
        pretrained_weights(str(path), "resnet56")
    path.write_bytes(b"nothing")
    with pytest.raises(LbgnasError, match="holds no weights"):
        pretrained_weights(str(path), "resnet56")
    with pytest.raises(LbgnasError, match="is not there, and nothing is downloaded"):
        pretrained_weights(str(tmp_path / "x.pth"), "resnet56")
    with pytest.raises(LbgnasError, match="no published weights of resnet56 are known"):
        pretrained_weights("cache", "resnet56")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(LbgnasError, match=r"checkpoints/resnet18-.*\.pth is not there"):
        pretrained_weights("cache", "resnet18")
    (tmp_path / "checkpoints").mkdir()
    net = nn.Linear(2, 2)
    torch.save(net.state_dict(), tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    assert pretrained_weights("cache", "resnet18").keys() == net.state_dict().keys()
