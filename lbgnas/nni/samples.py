"""Training samples with their ids, as a user's own DataLoader draws them: C has a row for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import data as torch_data
from torch.utils.data import Dataset, IterableDataset

from lbgnas.errors import LbgnasError
from lbgnas.nni.host import DataLoader


class Numbered(Dataset[tuple[Any, int]]):
    """A data set that gives each sample with its index."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> tuple[Any, int]:
        return self.samples[index], int(index)


class NumberedBatch:
    """Collates numbered samples to (batch, ids)."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: Sequence[tuple[Any, int]]) -> tuple[Any, Tensor]:
        """Return what the user's loader makes of the samples, and their ids, (batch,)."""
        samples, ids = zip(*items, strict=True)
        return self.collate(list(samples)), torch.tensor(ids)


def numbered(loader: Any) -> Any:
    """Return a loader that draws the same samples in the same way and tells their ids.

    Raises:
        LbgnasError: if samples have no index, or come in ready batches.
    """
    if not isinstance(loader, torch_data.DataLoader):
        raise LbgnasError(
            f"LBG: the training data are a {type(loader).__name__}; one DataLoader is needed, for C has a row for each "
            f"sample"
        )
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        raise LbgnasError(
            "LBG: the training DataLoader draws from a stream or takes ready batches; C has a row for each sample, so "
            "a data set with an index and batches made by the loader are needed"
        )
    # NNI's own form of a loader: it warns of any other.
    return DataLoader(
        Numbered(loader.dataset),
        batch_sampler=loader.batch_sampler,
        num_workers=loader.num_workers,
        collate_fn=NumberedBatch(loader.collate_fn),
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )


def images_and_labels(batch: Any, which: str) -> tuple[Tensor, Tensor]:
    """Return the two parts of a batch.

    Raises:
        LbgnasError: if it is not a pair of tensors.
    """
    pair = isinstance(batch, (list, tuple)) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)
    if not pair:
        raise LbgnasError(f"LBG: a {which} batch is a {type(batch).__name__}; a pair (images, labels) is needed")
    return batch[0], batch[1]
