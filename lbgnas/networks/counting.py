"""Parameters and multiply-accumulates of a network, counted, not estimated."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

COUNTED = "multiply-accumulates of convolutions and matrix products; batch norms, pools and sums are not counted"
"""Which layers `count_macs` counts."""


def count_parameters(module: nn.Module, without: tuple[str, ...] = ("auxiliary_head",)) -> int:
    """Return the number of parameters, leaving out submodules of the names in `without`."""
    return sum(value.numel() for name, value in module.named_parameters() if not any(part in name for part in without))


def count_macs(module: nn.Module, in_channels: int, size: int) -> int:
    """Return the multiply-accumulates of one image through the module in evaluation mode; see `COUNTED`.

    Nothing is computed: the module's copy holds shapes only.
    """
    shapes = copy.deepcopy(module).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shapes(torch.empty(1, in_channels, size, size, device="meta"))
    return int(counter.get_total_flops()) // 2
