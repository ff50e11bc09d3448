"""Settings of grouping without a search: fixed networks as experts. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lbgnas.config import GateSettings, LevelSettings, Settings, WeightSettings

Method = Literal["erm", "ensemble", "moe", "deepmoe", "mge-cnn", "lbg", "dalbg", "random-split", "kmeans-split"]


class FinetuneSettings(Settings):
    """Training of each expert on its own samples, after the groups are found; without groups, all training."""

    epochs: int = Field(200, ge=1)
    optimizer: Literal["sgd", "adam"] = "sgd"
    rate: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of sgd."""
    decay: float = Field(3e-4, ge=0)
    clip: float = Field(5.0, gt=0)
    """Largest norm of the gradient."""
    cutout: int = Field(0, ge=0)
    """Side of the square cut out of training images, in pixels."""


class GroupSettings(LevelSettings):
    """Everything grouping with fixed networks depends on."""

    method: Method = "lbg"
    """lbg, dalbg; or a method to compare with."""
    experts: str = "resnet18"
    """resnet18, resnet56, swin_t, t2t_vit_14, torchvision:NAME or timm:NAME."""
    num_experts: int = Field(2, ge=1, le=8)
    """K; each expert is made shallower, so that together they are about as large as one."""
    width: int | None = Field(None, ge=4, le=2048)
    """Of the network's first stage; by default as published."""
    pretrained: str | None = None
    """A file of weights to start from, or cache for the one torchvision or timm downloaded before."""
    gate: str = "conv"
    """conv, resnet8, linear or timm:NAME."""
    data: str = "coloured-digits"
    """NAME or NAME:PATH; docs/data.md lists the names."""
    image_size: int | None = Field(None, ge=8, le=1024)
    """Resize images to this side."""
    limit: int | None = Field(None, ge=20)
    """Use only so many images, for a quick trial."""
    epochs: int = Field(100, ge=1)
    """Of the grouping, at most."""
    patience: int | None = Field(None, ge=1)
    """Stop the grouping after so many epochs without a better validation accuracy, and go back to the best one."""
    batch_size: int = Field(128, ge=2)
    seed: int = Field(0, ge=0)
    weights: WeightSettings = WeightSettings(rate=0.1, rate_min=0.0)
    routing: GateSettings = GateSettings()
    finetune: FinetuneSettings = FinetuneSettings()

    @property
    def grouped(self) -> bool:
        """Whether the groups are learned by the three levels."""
        return self.method in ("lbg", "dalbg")

    @property
    def several(self) -> int:
        """How many networks there are: K, or one for a method that has no experts of their own."""
        return 1 if self.method in ("erm", "deepmoe", "mge-cnn") else self.num_experts
