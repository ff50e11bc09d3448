"""DeepMoE (Wang et al. 2020, arXiv:1806.01531): channels of every convolution as experts, gated for each image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lbgnas.networks.residual import ResNet

_SPARSITY, _EMBEDDING = 1e-3, 1.0  # lambda and mu


class DeepMoE(nn.Module):
    """A residual network whose convolutions answer g * conv(x), g = ReLU(W M(x)), one gate a channel.

    M is a shallow embedding: 3x3 convolutions of stride 2 and a mean. Trained in two stages: everything with
    CE(f) + lambda sum_l |g_l|_1 + mu CE(head(M)), then the network alone with CE(f), embedding and gates at rest.

    Shapes: images (batch, in_channels, size, size) to logits (batch, outputs).

    Args:
        network: the base; its weights are used and trained.
        in_channels, outputs: of images and logits.
        layers: convolutions of the embedding; 4 for CIFAR, 5 for ImageNet in the paper.
        width: channels of the embedding.
    """

    def __init__(self, network: ResNet, in_channels: int, outputs: int, layers: int = 4, width: int = 16) -> None:
        super().__init__()
        self.network = network
        convolutions: list[nn.Module] = []
        for layer in range(layers):
            convolutions += [
                nn.Conv2d(in_channels if layer == 0 else width, width, 3, 2, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
        self.embedding = nn.Sequential(*convolutions)
        self.embedding_head = nn.Linear(width, outputs)
        sizes = [network.conv1.out_channels]
        for block in network.blocks():
            sizes += [len(block.get_parameter(f"{name}.weight")) for name in ("conv1", "conv2")]
        self.gates = nn.ModuleList(nn.Linear(width, size) for size in sizes)
        self.joint = True

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self._answer(images, self._gates(self._embedded(images)))

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Choose the stage: joint in the first half of the epochs, the network alone in the second."""
        self.joint = 2 * epoch < epochs
        for module in (self.embedding, self.embedding_head, self.gates):
            module.requires_grad_(self.joint)
            module.train(self.joint)

    def training_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the stage."""
        embedded = self._embedded(images)
        gates = self._gates(embedded)
        loss = F.cross_entropy(self._answer(images, gates), labels)
        if not self.joint:
            return loss
        sparsity = torch.stack([gate.abs().sum(1).mean() for gate in gates]).sum()
        return loss + _SPARSITY * sparsity + _EMBEDDING * F.cross_entropy(self.embedding_head(embedded), labels)

    def _embedded(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.embedding(images).mean((2, 3))
        return pooled

    def _gates(self, embedded: Tensor) -> list[Tensor]:
        return [F.relu(gate(embedded)) for gate in self.gates]

    def _answer(self, images: Tensor, gates: list[Tensor]) -> Tensor:
        network, scale = self.network, (gate[:, :, None, None] for gate in gates)
        x = network.maxpool(network.relu(network.bn1(next(scale) * network.conv1(images))))
        for block in network.blocks():
            part = block.get_submodule
            inner = F.relu(part("bn1")(next(scale) * part("conv1")(x)))
            inner = part("bn2")(next(scale) * part("conv2")(inner))
            shortcut = dict(block.named_children()).get("downsample")
            x = F.relu(inner + (x if shortcut is None else shortcut(x)))
        logits: Tensor = network.fc(x.mean((2, 3)))
        return logits
