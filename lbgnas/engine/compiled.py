"""Networks compiled by torch.compile, where the machine can."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lbgnas.errors import LbgnasError


def compiled(networks: Sequence[nn.Module], device: torch.device) -> list[Callable[[Tensor], tuple[Tensor, ...]]]:
    """Return the networks' passes, compiled when they are first asked; parameters and buffers stay the networks'.

    Args:
        networks: images to a tuple of tensors.
        device: where they are; a trial shows whether anything can be compiled for it.

    Raises:
        LbgnasError: if not: a CPU needs a C++ compiler, a GPU Triton.
    """
    try:
        torch.compile(torch.sin)(torch.ones(2, device=device))
    except Exception as error:  # torch's own, of many kinds
        reason = str(error).strip().partition("\n")[0][:120]
        raise LbgnasError(f"--compile: torch.compile does not work here for {device} ({reason})") from None
    return [torch.compile(network) for network in networks]
