"""The division of the pool into the two halves of the search: made once, saved, and checked when loaded."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from lbgnas.data.image_data import ImageData
from lbgnas.data.seeds import generator
from lbgnas.errors import LbgnasError
from lbgnas.files import write_text

_FORMAT = "lbgnas-split"
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Split:
    """Sorted sample ids of both halves, and the fingerprint of the data they number."""

    train: torch.Tensor
    validation: torch.Tensor
    fingerprint: str
    seed: int


def stratified_order(strata: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Return a random order of 0 to N-1 in which every beginning holds the strata in (nearly) their shares.

    The r-th of a stratum's n samples (in random order) comes at the fraction (r + 1/2) / n of the whole.

    Example:
        >>> order = stratified_order(torch.tensor([0, 0, 0, 0, 1, 1]), generator(0))
        >>> sorted((order[:3] >= 4).tolist())
        [False, False, True]
    """
    shuffled = torch.randperm(len(strata), generator=rng)
    members = shuffled[torch.argsort(strata[shuffled], stable=True)]
    _, counts = torch.unique(strata, return_counts=True)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    fraction = (torch.arange(len(strata)) - first + 0.5).double() / counts.repeat_interleave(counts)
    return members[torch.argsort(fraction, stable=True)]


def stratified_halves(strata: torch.Tensor, portion: float, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sorted sample ids: floor(portion * N), drawn alike from every stratum, and all the others."""
    order = stratified_order(strata, rng)
    # The small term undoes binary fractions: 0.29 * 100 is 28.999999999999996.
    count = math.floor(portion * len(order) + 1e-9)
    return order[:count].sort().values, order[count:].sort().values


def bootstrap_sample(count: int, seed: int, index: int) -> torch.Tensor:
    """Return `count` sample ids drawn with replacement: the training samples of a bagged network.

    Example:
        >>> len(bootstrap_sample(100, seed=0, index=1).unique()) < 80
        True
    """
    return torch.randint(count, (count,), generator=generator(seed, "bootstrap", index))


def make_split(data: ImageData, seed: int, train_portion: float | None = None) -> Split:
    """Return a random split with (nearly) the same classes in both halves.

    Args:
        data: the pool.
        seed: the run's seed; the same seed gives the same split.
        train_portion: share of the training half, above 0 and below 1, the rest being the validation half; None
            for the shares that `data.info` asks for.

    Raises:
        LbgnasError: a portion out of range, or one that leaves a half empty.
    """
    shares = data.info.search_shares if train_portion is None else (train_portion, 1 - train_portion)
    if not 0 < shares[0] < 1:
        raise LbgnasError(f"train_portion: {train_portion} is not allowed; it must be above 0 and below 1")
    everything, held = torch.arange(len(data)), torch.zeros(len(data), dtype=torch.bool)
    if data.for_validation is not None:
        held = data.for_validation
    free = everything[~held]
    # The share is of the whole pool; what must be in the validation half only leaves fewer to choose from.
    portion = shares[0] * len(data) / max(len(free), 1)
    if portion > 1:
        raise LbgnasError(
            f"train_portion: {shares[0]} of {len(data)} samples is more than the {len(free)} that are not kept "
            "for the validation half"
        )
    chosen, others = stratified_halves(data.labels[free], portion, generator(seed, "split"))
    train, rest = free[chosen], free[others]
    if sum(shares) < 1:
        wanted = max(0.0, shares[1] * len(data) - int(held.sum()))
        part, _ = stratified_halves(data.labels[rest], wanted / max(len(rest), 1), generator(seed, "validation"))
        rest = rest[part]
    validation = torch.cat([rest, everything[held]]).sort().values
    if not len(train) or not len(validation):
        empty = "training" if not len(train) else "validation"
        raise LbgnasError(f"train_portion: {shares[0]} of {len(data)} samples leaves the {empty} half empty")
    return Split(train, validation, data.fingerprint(), seed)


def save_split(split: Split, path: Path) -> None:
    """Write the split as JSON; a reader sees the old file or the whole new one, never a part.

    Raises:
        LbgnasError: the file cannot be written.
    """
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "seed": split.seed,
        "fingerprint": split.fingerprint,
        "train": split.train.tolist(),
        "validation": split.validation.tolist(),
    }
    write_text(path, json.dumps(content))


def load_split(path: Path, data: ImageData) -> Split:
    """Read a split that `save_split` wrote for the same data.

    Raises:
        LbgnasError: the file is missing, broken, of another version, or made for other data.
    """
    content = _read(path)
    seed, fingerprint = content.get("seed"), content.get("fingerprint")
    if type(seed) is not int or type(fingerprint) is not str:
        raise LbgnasError(f"{path}: a split file must have a whole number as seed and a text as fingerprint")
    if fingerprint != data.fingerprint():
        raise LbgnasError(f"{path}: the data changed since this run began; restore it or begin a new run")
    train = _ids(content.get("train"), len(data), f"{path}: train")
    validation = _ids(content.get("validation"), len(data), f"{path}: validation")
    both = train[torch.isin(train, validation)]
    if len(both):
        raise LbgnasError(f"{path}: sample id {int(both[0])} is in both train and validation")
    return Split(train, validation, fingerprint, seed)


def _read(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LbgnasError(f"{path}: the split cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise LbgnasError(f"{path}: this split file is broken, it is not JSON") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise LbgnasError(f"{path}: this is not a split file, its format must be {_FORMAT!r}")
    if content.get("version") != _VERSION:
        version = content.get("version")
        raise LbgnasError(f"{path}: split version {version!r} is not known to this program, it reads {_VERSION}")
    return content


def _ids(values: object, count: int, where: str) -> torch.Tensor:
    if not isinstance(values, list) or not values or not all(type(value) is int for value in values):
        raise LbgnasError(f"{where} must be a list of at least one sample id")
    for value in values:
        if not 0 <= value < count:
            raise LbgnasError(f"{where} has the sample id {value}, the data has 0 to {count - 1}")
    ids = torch.tensor(sorted(values))
    twice = ids[1:][ids[1:] == ids[:-1]]
    if len(twice):
        raise LbgnasError(f"{where} has the sample id {int(twice[0])} twice")
    return ids
