"""Residual networks of basic blocks (He et al. 2016, arXiv:1512.03385), of any depth and width."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

_LARGE = 64


class ResNet(nn.Module):
    """A stem, stages of basic blocks (each after the first halves the size and doubles the width), a linear layer.

    Parameters have torchvision's names. Images up to 64 pixels get a 3x3 stem of stride 1 without pooling.

    Shapes: images (batch, in_channels, size, size) to logits (batch, outputs).

    Args:
        depths: blocks of each stage; (2, 2, 2, 2) is ResNet-18, (9, 9, 9) ResNet-56.
        width: channels of the first stage.
        in_channels, outputs, size: of images and logits.
        norm: makes a normalisation for a number of channels.
    """

    def __init__(
        self,
        depths: Sequence[int],
        width: int,
        in_channels: int,
        outputs: int,
        size: int,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        from torchvision.models.resnet import BasicBlock

        super().__init__()
        large = size > _LARGE
        kernel, stride = (7, 2) if large else (3, 1)
        self.conv1 = nn.Conv2d(in_channels, width, kernel, stride, kernel // 2, bias=False)
        self.bn1 = norm(width)
        self.relu = nn.ReLU()
        self.maxpool: nn.Module = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        self.stages = len(depths)
        before = width
        for stage, blocks in enumerate(depths):
            channels, stride = width * 2**stage, 1 if stage == 0 else 2
            layer = []
            for block in range(blocks):
                shortcut = None
                if block == 0 and (stride != 1 or before != channels):
                    shortcut = nn.Sequential(nn.Conv2d(before, channels, 1, stride, bias=False), norm(channels))
                layer.append(BasicBlock(before, channels, stride if block == 0 else 1, shortcut, norm_layer=norm))
                before = channels
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
        self.fc = nn.Linear(before, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.fc(self.features(images).mean((2, 3)))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Return what the last block answers, (batch, channels, height, width)."""
        x: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for block in self.blocks():
            x = block(x)
        return x

    def blocks(self) -> list[nn.Module]:
        """Return the blocks of all stages."""
        return [block for stage in range(self.stages) for block in self.get_submodule(f"layer{stage + 1}").children()]


def group_norm(channels: int) -> nn.Module:
    """Return a normalisation by which a sample does not depend on the batch it comes in."""
    return nn.GroupNorm(1, channels)
