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

from lbgnas import composed as forms
from lbgnas.errors import LbgnasError
from lbgnas.precision import exact


class BatchStatistics(TorchFunctionMode):
    """Context in which training-mode normalisations follow one policy, whatever module calls them.

    Where a channel has one value, running statistics stay: it has no variance. A module's count of batches (an
    integer of no dimensions, increased in place) is put back on leaving where running statistics may not move.
    Contexts nest: running statistics move where all of them let them.

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
        super().__init__()
        self.update = update
        self.composed = composed
        self.rows = rows
        self._counted: list[Tensor] = []

    def __enter__(self) -> BatchStatistics:
        super().__enter__()  # type: ignore[no-untyped-call]
        self._active.append(self)
        return self

    def __exit__(self, *error: Any) -> None:
        self._active.pop()
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        if self._counted:
            torch._foreach_sub_(self._counted, 1)
            self._counted = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Replace the normalisations; leave every other function as it is."""
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return self._functional_batch_norm(*args, **kwargs)
        if func is torch.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if func is F.instance_norm:
            return self._functional_instance_norm(*args, **kwargs)
        if func is torch.instance_norm:
            return self._instance_norm(*args, **kwargs)
        if func is Tensor.add_:
            self._count(*args)
        if self.composed:
            if func in forms.COMPOSED:
                return forms.COMPOSED[func](*args, **kwargs)
            if func in _REFUSED:
                raise LbgnasError(
                    f"torch.{func.__name__} has no form that forward mode and a backward can pass; call the function "
                    f"of torch.nn.functional, or use mode 'reverse'"
                )
        return func(*args, **kwargs)

    def _count(self, counter: Tensor, value: object = None, *_: Any) -> None:
        # Put back afterwards instead of skipped: a norm with momentum=None divides by its count.
        if type(value) is not int or value != 1 or counter.dim() or counter.is_floating_point():
            return
        if self is self._active[-1] and not running_statistics_move():
            self._counted.append(counter)

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
        cudnn = torch.backends.cudnn.enabled
        return self._batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn)

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
        if training and (input.numel() <= input.shape[1] or not running_statistics_move()):
            running_mean = running_var = None
        weight, bias = (value if value is None else exact(value) for value in (weight, bias))
        if training and (self.composed or self._partial(input)):
            return forms.batch_norm(input, weight, bias, running_mean, running_var, momentum, eps, self.rows)
        return torch.batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled)

    def _functional_instance_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        use_input_stats: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        cudnn = torch.backends.cudnn.enabled
        return self._instance_norm(
            input, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, cudnn
        )

    def _instance_norm(
        self,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        use_input_stats: bool,
        momentum: float,
        eps: float,
        cudnn_enabled: bool,
    ) -> Tensor:
        one_value = input.numel() <= input.shape[0] * input.shape[1]
        if use_input_stats and (one_value or not running_statistics_move()):
            running_mean = running_var = None
        if use_input_stats and (self.composed or self._partial(input)):
            return forms.instance_norm(input, weight, bias, running_mean, running_var, momentum, eps, self.rows)
        return torch.instance_norm(
            input, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, cudnn_enabled
        )

    def _partial(self, input: Tensor) -> bool:
        return self.rows is not None and self.rows < input.shape[0]


_REFUSED = {torch.native_batch_norm, torch.native_layer_norm, torch.native_group_norm}


def running_statistics_move() -> bool:
    """Return whether the pass under way may edit running statistics: all contexts let it."""
    return all(context.update for context in BatchStatistics._active)


def statistics_rows(batch: int) -> int:
    """Return how many samples of a batch the pass under way takes its statistics from."""
    return min([batch, *(context.rows for context in BatchStatistics._active if context.rows is not None)])


def statistics_composed() -> bool:
    """Return whether the pass under way needs normalisations that forward mode and a backward can pass."""
    return any(context.composed for context in BatchStatistics._active)
