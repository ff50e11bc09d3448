"""Planted problems: samples, labels, and the group of each sample that no method is shown but the oracle."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from lbgnas.data.fashion_mnist import load as load_fashion


@dataclass(frozen=True)
class Part:
    """Samples (n, ...), labels (n,) and planted groups (n,)."""

    x: Tensor
    y: Tensor
    group: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def rows(self, index: Tensor) -> Part:
        return Part(self.x[index], self.y[index], self.group[index])


@dataclass(frozen=True, eq=False)
class Problem:
    """A problem with its training half, validation half and test part.

    kind: what the experts are: "linear" rules, small CNNs ("cnn") or small supernets ("supernet").
    """

    name: str
    kind: str
    groups: int
    classes: int
    train: Part
    validation: Part
    test: Part

    @property
    def pool(self) -> Part:
        """Both halves together."""
        one, two = self.train, self.validation
        return Part(torch.cat([one.x, two.x]), torch.cat([one.y, two.y]), torch.cat([one.group, two.group]))


def _generator(name: str, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(f"{name} {seed}".encode()))


def _split(name: str, kind: str, groups: int, classes: int, sizes: tuple[int, int, int], whole: Part) -> Problem:
    train, validation, test = torch.split(torch.arange(sum(sizes)), sizes)
    return Problem(name, kind, groups, classes, whole.rows(train), whole.rows(validation), whole.rows(test))


def xor(seed: int, count: int = 2000) -> Problem:
    """x normal in R^6, group = sign x_1, label = sign x_2 xor group; sign x_2 is as right a grouping."""
    x = torch.randn(3 * count, 6, generator=_generator("xor", seed))
    group = (x[:, 0] > 0).long()
    label = (x[:, 1] > 0).long() ^ group
    return _split("xor", "linear", 2, 2, (count, count, count), Part(x, label, group))


def linear(groups: int) -> Callable[[int], Problem]:
    """Return a mixture of `groups` linear rules.

    The group is the nearest of K directions in the plane of the first two coordinates; the label is the sign of a
    rule in the other four, one of K rules at right angles. No two groups share a linear rule: the grouping is unique.
    """

    def make(seed: int, count: int = 2000) -> Problem:
        name = f"linear-{groups}"
        generator = _generator(name, seed)
        x = torch.randn(3 * count, 6, generator=generator)
        turn = 2 * torch.pi * torch.arange(groups) / groups
        group = (x[:, :2] @ torch.stack([turn.cos(), turn.sin()])).argmax(1)
        rules = torch.linalg.qr(torch.randn(4, 4, generator=generator))[0][:groups]
        label = ((x[:, 2:] * rules[group]).sum(1) > 0).long()
        return _split(name, "linear", groups, 2, (count, count, count), Part(x, label, group))

    return make


@cache
def _fashion(part: str, side: int) -> tuple[Tensor, Tensor]:
    data = load_fashion(None, part, side)  # type: ignore[arg-type]
    mean, std = data.info.mean[0], data.info.std[0]
    return (data.images(torch.arange(len(data))) - mean) / std, data.labels


def _images(
    name: str, groups: int, shift: int, change: Callable[[Tensor, int], Tensor], kind: str = "cnn"
) -> Callable[[int], Problem]:
    """Return Fashion-MNIST where group g is changed by `change` and has its label shifted by g * shift."""
    side, count = {"cnn": (14, 3000), "supernet": (8, 1000)}[kind]
    name += " (supernets)" if kind == "supernet" else ""

    def make(seed: int) -> Problem:
        generator = _generator(name, seed)
        pool, pool_labels = _fashion("pool", side)
        test, test_labels = _fashion("test", side)
        chosen = torch.randperm(len(pool), generator=generator)[: 2 * count]
        x, label = torch.cat([pool[chosen], test]), torch.cat([pool_labels[chosen], test_labels])
        group = torch.randint(groups, (len(x),), generator=generator)
        changed = torch.stack([change(x, index) for index in range(groups)])[group, torch.arange(len(x))]
        whole = Part(changed, (label + shift * group) % 10, group)
        return _split(name, kind, groups, 10, (count, count, len(test)), whole)

    return make


def _inverted(x: Tensor, group: int) -> Tensor:
    low, high = x.min(), x.max()
    return low + high - x if group else x


def _marked(x: Tensor, group: int) -> Tensor:
    result = x.clone()
    if group:
        result[:, :, :2, :2] = x.max()
    return result


def _rotated(x: Tensor, group: int) -> Tensor:
    return torch.rot90(x, group, (2, 3))


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "xor": xor,
    "linear-2": linear(2),
    "linear-3": linear(3),
    "linear-4": linear(4),
    "inverted": _images("inverted", 2, 5, _inverted),
    "mark": _images("mark", 2, 5, _marked),
    "rotations": _images("rotations", 4, 3, _rotated),
    "inverted (supernets)": _images("inverted", 2, 5, _inverted, "supernet"),
    "mark (supernets)": _images("mark", 2, 5, _marked, "supernet"),
    "rotations (supernets)": _images("rotations", 4, 3, _rotated, "supernet"),
}
