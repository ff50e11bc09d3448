"""Networks people already use, as experts: built by name, with a depth that K experts can share out.

resnet18, resnet56, swin_t, t2t_vit_14; torchvision:NAME and timm:NAME for any other of these libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lbgnas.errors import LbgnasError, unknown
from lbgnas.networks.counting import count_parameters
from lbgnas.networks.residual import ResNet
from lbgnas.networks.t2t_vit import T2TViT

PUBLISHED: dict[str, tuple[tuple[int, ...], int]] = {
    "resnet18": ((2, 2, 2, 2), 64),
    "resnet56": ((9, 9, 9), 16),
    "swin_t": ((2, 2, 6, 2), 96),
    "t2t_vit_14": ((14,), 384),
}
"""Depths (blocks of each stage) and width as published."""

LIBRARIES = ("torchvision", "timm")


@dataclass(frozen=True)
class FixedNetwork:
    """What a fixed expert is built from; plain data.

    Attributes:
        name: one of `PUBLISHED`, or torchvision:NAME or timm:NAME.
        depths: blocks of each stage; empty for a library's network, which is taken as it is.
        width: of the first stage, in channels; 0 for a library's network.
        in_channels, outputs, size: of images and logits.
    """

    name: str
    depths: tuple[int, ...]
    width: int
    in_channels: int
    outputs: int
    size: int

    def build(self) -> nn.Module:
        """Return a new network with random weights.

        Raises:
            LbgnasError: for a name the library does not know, or a library that is not installed.
        """
        library, colon, name = self.name.partition(":")
        if colon:
            return _BUILD[library](name, self)
        return _BUILD[self.name](self.name, self)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-safe data."""
        return {"kind": "fixed", **asdict(self), "depths": list(self.depths)}


def fixed_network(
    name: str, in_channels: int, outputs: int, size: int, width: int | None = None, where: str = "--experts"
) -> FixedNetwork:
    """Return the single network of a name, with its published depth.

    Raises:
        LbgnasError: an unknown name, or a width where a library's network has its own.
    """
    library, colon, rest = name.partition(":")
    if colon and library in LIBRARIES and rest:
        if width is not None:
            raise LbgnasError(f"--width {width}: {name} has its own; leave it out")
        return FixedNetwork(name, (), 0, in_channels, outputs, size)
    if name not in PUBLISHED:
        raise unknown("network", name, [*PUBLISHED, *(f"{library}:NAME" for library in LIBRARIES)], where)
    depths, published = PUBLISHED[name]
    return FixedNetwork(name, depths, width or published, in_channels, outputs, size)


def shared_out(single: FixedNetwork, num_experts: int) -> FixedNetwork:
    """Return the network of which `num_experts` together come nearest to the single one's parameters, by depth.

    A library's network has no depth to choose, and stays as it is.

    Example:
        >>> shared_out(fixed_network("resnet56", 3, 10, 32), 2).depths
        (5, 5, 4)
    """
    if num_experts == 1 or not single.depths:
        return single
    target = parameters(single) / num_experts
    # More blocks, more parameters: halve the range until two neighbours are left.
    low, high = len(single.depths), sum(single.depths)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters(_of_depth(single, middle)) <= target else (low, middle)
    return min((_of_depth(single, k) for k in (low, high)), key=lambda network: abs(parameters(network) - target))


def _of_depth(single: FixedNetwork, blocks: int) -> FixedNetwork:
    return replace(single, depths=_depths(single.depths, blocks))


def _depths(published: Sequence[int], blocks: int) -> tuple[int, ...]:
    """Return stages of `blocks` blocks in all, one each at least, in (nearly) the published proportions."""
    depths = [1] * len(published)
    while sum(depths) < blocks:
        stage = min(range(len(depths)), key=lambda k: (depths[k] / published[k], k))
        depths[stage] += 1
    return tuple(depths)


def parameters(network: FixedNetwork) -> int:
    """Return the number of parameters, without making them."""
    with torch.device("meta"):
        return count_parameters(network.build())


def from_dict(record: Mapping[str, Any], where: str) -> FixedNetwork:
    """Return the network that `to_dict` described.

    Raises:
        LbgnasError: if it describes none.
    """
    try:
        numbers = {key: int(record[key]) for key in ("width", "in_channels", "outputs", "size")}
        return FixedNetwork(name=str(record["name"]), depths=tuple(map(int, record["depths"])), **numbers)
    except (KeyError, TypeError, ValueError):
        raise LbgnasError(f"{where}: {dict(record)} describes no network") from None


def _resnet(name: str, network: FixedNetwork) -> nn.Module:
    return ResNet(network.depths, network.width, network.in_channels, network.outputs, network.size)


def _swin(name: str, network: FixedNetwork) -> nn.Module:
    from torchvision.models.swin_transformer import SwinTransformer

    heads = max(1, network.width // 32)
    built: nn.Module = SwinTransformer(
        patch_size=[4, 4],
        embed_dim=network.width,
        depths=list(network.depths),
        num_heads=[heads * 2**stage for stage in range(len(network.depths))],
        window_size=[7, 7],
        # Dropped blocks would belong to other draws in each pass of a step.
        stochastic_depth_prob=0.0,
        num_classes=network.outputs,
    )
    return ThreeChannels(built) if network.in_channels == 1 else built


def _t2t(name: str, network: FixedNetwork) -> nn.Module:
    width = network.width
    return T2TViT(
        network.depths[0],
        width,
        heads=max(1, width // 64),
        token_width=max(4, width // 6),
        in_channels=network.in_channels,
        outputs=network.outputs,
        size=network.size,
    )


class ThreeChannels(nn.Module):
    """A network for colour images that takes grey ones."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of (batch, 1, height, width)."""
        logits: Tensor = self.network(images.expand(-1, 3, -1, -1))
        return logits


def _torchvision(name: str, network: FixedNetwork) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown("network", name, known, "torchvision")
    built: nn.Module = models.get_model(name, weights=None, num_classes=network.outputs)
    return ThreeChannels(built) if network.in_channels == 1 else built


def _timm(name: str, network: FixedNetwork) -> nn.Module:
    try:
        import timm
        from timm.layers.config import set_fused_attn
    except ModuleNotFoundError:
        raise LbgnasError(f"timm:{name}: timm is not installed: pip install 'lbgnas[zoo]'") from None
    if name not in timm.list_models():
        raise unknown("network", name, timm.list_models(), "timm")
    # Fused attention has no forward-mode derivative.
    set_fused_attn(False)
    told: dict[str, Any] = {"num_classes": network.outputs, "in_chans": network.in_channels}
    published = timm.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size:
        told["img_size"] = network.size
    built: nn.Module = timm.create_model(name, pretrained=False, **told)
    return built


_BUILD: dict[str, Callable[[str, FixedNetwork], nn.Module]] = {
    "resnet18": _resnet,
    "resnet56": _resnet,
    "swin_t": _swin,
    "t2t_vit_14": _t2t,
    "torchvision": _torchvision,
    "timm": _timm,
}
