"""Normalisations and activations composed of means, products and exponentials.

Torch's fused ones give wrong numbers, or an error, where a forward-mode pass is followed by a backward; these do not.
Each takes the arguments of the function it stands for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lbgnas.precision import exact, exact_type
from lbgnas.tangents import inverse_root


def batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    rows: int | None = None,
) -> Tensor:
    """Normalise by the batch's statistics, those of the first `rows` samples if given; moves running statistics."""
    source = input[:rows]
    dims = [0, *range(2, input.dim())]
    mean = source.mean(dims, keepdim=True, dtype=exact_type(input))
    centred = exact(input) - mean
    spread = centred[:rows]
    variance = (spread * spread).mean(dims, keepdim=True)
    _move(running_mean, running_var, mean, variance, source.numel() // source.shape[1], momentum)
    shape = [1, -1] + [1] * (input.dim() - 2)
    scale = inverse_root(variance, eps)
    if weight is not None:
        scale = scale * weight.reshape(shape)
    output = centred * scale
    return (output if bias is None else output + bias.reshape(shape)).to(input.dtype)


def instance_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    rows: int | None = None,
) -> Tensor:
    """Normalise every channel of every sample by itself; the first `rows` samples move running statistics."""
    dims = list(range(2, input.dim()))
    mean = input.mean(dims, keepdim=True, dtype=exact_type(input))
    centred = exact(input) - mean
    variance = (centred * centred).mean(dims, keepdim=True)
    if running_mean is not None:
        values = input.numel() // (input.shape[0] * input.shape[1])
        _move(running_mean, running_var, mean[:rows].mean(0), variance[:rows].mean(0), values, momentum)
    return _scale_channels(centred * inverse_root(variance, eps), weight, bias).to(input.dtype)


@torch.no_grad()
def _move(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    values: int,
    momentum: float,
) -> None:
    if running_mean is None or running_var is None or values < 2:
        return
    running_mean.lerp_(mean.detach().flatten().to(running_mean.dtype), momentum)
    unbiased = variance.detach().flatten() * (values / (values - 1))
    running_var.lerp_(unbiased.to(running_var.dtype), momentum)


def _standardise(input: Tensor, dims: list[int], eps: float) -> Tensor:
    centred = exact(input) - input.mean(dims, keepdim=True, dtype=exact_type(input))
    return centred * inverse_root((centred * centred).mean(dims, keepdim=True), eps)


def _scale_shift(output: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        output = output * weight
    return output if bias is None else output + bias


def _scale_channels(output: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = [1, -1] + [1] * (output.dim() - 2)
    return _scale_shift(
        output,
        None if weight is None else weight.reshape(shape),
        None if bias is None else bias.reshape(shape),
    )


def _layer_norm(
    input: Tensor,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
    **__: Any,
) -> Tensor:
    dims = list(range(-len(normalized_shape), 0))
    return _scale_shift(_standardise(input, dims, eps), weight, bias).to(input.dtype)


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
    **__: Any,
) -> Tensor:
    output = _standardise(input.reshape(input.shape[0], num_groups, -1), [2], eps).reshape(input.shape)
    return _scale_channels(output, weight, bias).to(input.dtype)


def _log_softmax(input: Tensor, dim: int | None = None, *rest: Any, **named: Any) -> Tensor:
    # torch's softmax has its dtype third, torch.nn.functional's has a stack level there.
    dtype = next((value for value in (*rest, *named.values()) if isinstance(value, torch.dtype)), None)
    if dtype is not None:
        input = input.to(dtype)
    if dim is None:
        dim = 0 if input.dim() in (0, 1, 3) else 1  # torch's rule
    shifted = input - input.detach().amax(dim, keepdim=True)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def _softmax(input: Tensor, dim: int | None = None, *rest: Any, **named: Any) -> Tensor:
    return _log_softmax(input, dim, *rest, **named).exp()


def _softmin(input: Tensor, dim: int | None = None, *rest: Any, **named: Any) -> Tensor:
    return _softmax(-input, dim, *rest, **named)


def _silu(input: Tensor, inplace: bool = False) -> Tensor:
    return input * torch.sigmoid(input)


COMPOSED: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    torch.group_norm: _group_norm,
    F.log_softmax: _log_softmax,
    F.softmax: _softmax,
    F.softmin: _softmin,
    Tensor.log_softmax: _log_softmax,
    Tensor.softmax: _softmax,
    torch.log_softmax: _log_softmax,
    torch.softmax: _softmax,
    F.silu: _silu,
}
"""What stands for which function; batch and instance norms apart, which move running statistics."""
