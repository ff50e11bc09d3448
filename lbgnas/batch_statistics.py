"""Which samples a normalisation takes its statistics from, and whether running statistics move.

One pass of a step must edit the running statistics (the one that trains the weights); every other pass must not.
Forward-mode differentiation followed by a backward is silently wrong through torch's fused normalisations, so such
a pass needs them composed of means and products. Both hold for any torch module, so they are imposed from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class BatchStatistics(TorchFunctionMode):
    """Context in which training-mode normalisations follow one policy, whatever module calls them.

    Args:
        update: whether running means and variances may move.
        composed: use differentiable compositions instead of fused kernels; needed for forward-mode followed by a
            backward, where the fused ones give wrong numbers without an error.
        rows: take batch statistics from the first `rows` samples only; the others are normalised by them.

    Example:
        >>> norm = torch.nn.BatchNorm2d(2)
        >>> with BatchStatistics(update=False):
        ...     _ = norm(torch.ones(4, 2, 3, 3))
        >>> norm.running_mean.tolist()
        [0.0, 0.0]
    """

    _active: list[BatchStatistics] = []  # noqa: RUF012 - shared on purpose: the stack of contexts

    def __init__(self, *, update: bool, composed: bool = False, rows: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.update = update
        self.composed = composed
        self.rows = rows

    def __enter__(self) -> BatchStatistics:
        super().__enter__()  # type: ignore[no-untyped-call]
        self._active.append(self)
        return self

    def __exit__(self, *error: Any) -> None:
        self._active.pop()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Replace the normalisations; leave every other function as it is."""
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return self._functional_batch_norm(*args, **kwargs)
        if func is torch.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if self.composed and func in _COMPOSED:
            return _COMPOSED[func](*args, **kwargs)
        return func(*args, **kwargs)

    def _functional_batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        return self._batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, True)

    def _batch_norm(
        self,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
        cudnn_enabled: bool,
    ) -> Tensor:
        if not self.update and training:
            running_mean = running_var = None
        partial = self.rows is not None and self.rows < input.shape[0]
        if training and (self.composed or partial):
            return _composed_batch_norm(input, weight, bias, running_mean, running_var, momentum, eps, self.rows)
        return torch.batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled)


def running_statistics_move() -> bool:
    """Return whether the pass under way may edit running statistics."""
    return not BatchStatistics._active or BatchStatistics._active[-1].update


def _composed_batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    rows: int | None,
) -> Tensor:
    source = input[:rows]
    dims = [0, *range(2, input.dim())]
    shape = [1, -1] + [1] * (input.dim() - 2)
    mean = source.mean(dims, keepdim=True)
    centred = input - mean
    spread = centred[:rows]
    variance = (spread * spread).mean(dims, keepdim=True)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            count = source.numel() // source.shape[1]
            running_mean.lerp_(mean.detach().flatten().to(running_mean.dtype), momentum)
            unbiased = variance.detach().flatten() * (count / max(count - 1, 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    scale = (variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.reshape(shape)
    output = centred * scale
    return output if bias is None else output + bias.reshape(shape)


def _standardise(input: Tensor, dims: list[int], eps: float) -> Tensor:
    centred = input - input.mean(dims, keepdim=True)
    return centred * ((centred * centred).mean(dims, keepdim=True) + eps).rsqrt()


def _scale_shift(output: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        output = output * weight
    return output if bias is None else output + bias


def _layer_norm(
    input: Tensor,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    dims = list(range(-len(normalized_shape), 0))
    return _scale_shift(_standardise(input, dims, eps), weight, bias)


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    output = _standardise(input.reshape(input.shape[0], num_groups, -1), [2], eps).reshape(input.shape)
    shape = [1, -1] + [1] * (input.dim() - 2)
    return _scale_shift(
        output,
        None if weight is None else weight.reshape(shape),
        None if bias is None else bias.reshape(shape),
    )


def _log_softmax(input: Tensor, dim: int | None = None, *_: Any, dtype: Any = None, **__: Any) -> Tensor:
    shifted = input - input.detach().amax(dim or 0, keepdim=True)
    return shifted - shifted.exp().sum(dim or 0, keepdim=True).log()


def _softmax(input: Tensor, dim: int | None = None, *rest: Any, **named: Any) -> Tensor:
    return _log_softmax(input, dim, *rest, **named).exp()


def _silu(input: Tensor, inplace: bool = False) -> Tensor:
    return input * torch.sigmoid(input)


_COMPOSED: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.log_softmax: _log_softmax,
    F.softmax: _softmax,
    Tensor.log_softmax: _log_softmax,
    Tensor.softmax: _softmax,
    torch.log_softmax: _log_softmax,
    torch.softmax: _softmax,
    F.silu: _silu,
}
