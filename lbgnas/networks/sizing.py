"""How large each of K experts is, so that together they are about as large as the single network."""

from __future__ import annotations

from collections.abc import Callable


def expert_cells(single: int, num_experts: int) -> int:
    """Return the cells of each expert: all for one, else max(3, ceil(L / K) + 1).

    The paper's sizes for two experts follow: 5 of 8, 11 of 20, 8 of 14.

    Example:
        >>> [expert_cells(single, 2) for single in (8, 20, 14)]
        [5, 11, 8]
    """
    return single if num_experts == 1 else max(3, -(-single // num_experts) + 1)


def expert_size(count: Callable[[int, int], int], cells: int, channels: int, num_experts: int) -> tuple[int, int]:
    """Return (cells, channels) of each expert.

    The channels stay the single network's as long as all experts together have between 3/4 and 4/3 of its parameters;
    otherwise they are the even number that comes closest.

    Args:
        count: parameters of one network of (cells, channels).
        cells, channels: of the single network.
        num_experts: K.
    """
    own = expert_cells(cells, num_experts)
    target = count(cells, channels) / num_experts
    if 3 / 4 <= count(own, channels) / target <= 4 / 3:
        return own, channels
    even = range(4, 2 * channels + 1, 2)
    return own, min(even, key=lambda width: abs(count(own, width) - target))
