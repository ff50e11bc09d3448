"""Networks of the comparison methods that are one network each, built on the base that experts are built on."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from lbgnas.errors import LbgnasError
from lbgnas.networks.deep_moe import DeepMoE
from lbgnas.networks.fixed import FixedNetwork, shared_out
from lbgnas.networks.mge_cnn import MgeCnn
from lbgnas.networks.residual import ResNet

COMPARISONS = ("deepmoe", "mge-cnn")

_BACKBONES = 4  # of MGE-CNN: three experts and the gate
_LARGE = 64


@runtime_checkable
class OwnLoss(Protocol):
    """A network that knows how it is trained."""

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Prepare for an epoch."""

    def training_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch."""


def build_comparison(kind: str, single: FixedNetwork) -> nn.Module:
    """Return the network of a method, about as large as the single one.

    Raises:
        LbgnasError: for a base that is no residual network.
    """
    if single.name not in ("resnet18", "resnet56"):
        raise LbgnasError(f"--experts {single.name}: {kind} is built on resnet18 or resnet56 only")
    if kind == "deepmoe":
        network = single.build()
        assert isinstance(network, ResNet)
        return DeepMoE(network, single.in_channels, single.outputs, layers=5 if single.size > _LARGE else 4)
    each = shared_out(single, _BACKBONES)

    def backbone() -> ResNet:
        network = each.build()
        assert isinstance(network, ResNet)
        return network

    return MgeCnn(backbone, single.outputs)


def comparison_record(kind: str, single: FixedNetwork) -> dict[str, Any]:
    """Return what the network is built from, as JSON-safe data."""
    return {"kind": kind, "network": single.to_dict()}
