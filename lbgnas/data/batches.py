"""Batches that can be resumed anywhere: step s needs nothing but (seed, words, s)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import NamedTuple

import torch

from lbgnas.data import transforms
from lbgnas.data.image_data import ImageData
from lbgnas.data.seeds import generator
from lbgnas.errors import LbgnasError


class Batch(NamedTuple):
    """What a step sees; all three are on the device that was asked for.

    Attributes:
        images: (B, C, H, W), normalised, augmented, and padded to a multiple of pixels.
        labels: (B,), long.
        ids: (B,), long: sample ids in the data set.
    """

    images: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor


def num_steps(count: int, batch_size: int, drop_last: bool = False) -> int:
    """Return how many batches `count` samples make.

    Raises:
        LbgnasError: a batch size below 1.

    Example:
        >>> num_steps(10, 4), num_steps(10, 4, drop_last=True)
        (3, 2)
    """
    if batch_size < 1:
        raise LbgnasError(f"batch_size: {batch_size} is below 1")
    return count // batch_size if drop_last else -(-count // batch_size)


def ends_alone(count: int, batch_size: int) -> bool:
    """Return whether the last of several batches is one sample: at one pixel that has no batch statistics.

    Example:
        >>> ends_alone(9, 4), ends_alone(10, 4), ends_alone(1, 4)
        (True, False, False)
    """
    return count > batch_size and count % batch_size == 1


def epoch_order(ids: torch.Tensor, seed: int, *words: str | int) -> torch.Tensor:
    """Return `ids` in the random order that belongs to `seed` and `words`."""
    return ids[torch.randperm(len(ids), generator=generator(seed, "order", *words))]


def batches(
    data: ImageData,
    ids: torch.Tensor,
    batch_size: int,
    *,
    seed: int,
    words: tuple[str | int, ...],
    augment: bool,
    cutout: int = 0,
    device: str | torch.device = "cpu",
    start: int = 0,
    drop_last: bool = False,
    shuffle: bool = True,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    multiple: int = 4,
) -> Iterator[Batch]:
    """Return an iterator over one epoch of `ids`, which prepares a batch while the one before is in use.

    Args:
        data: where the samples are.
        ids: (N,), the sample ids of this epoch; none give no batch.
        batch_size: at least 1; the last batch may be smaller.
        seed, words: name the epoch, such as 3 and `("train", epoch)`: order and augmentation
            depend on nothing else.
        augment: random crop and flip as `data.info` has them, and cutout.
        cutout: side of the square that is cut out, in pixels; 0 for none.
        device: where the batches go; pinned memory is used for a GPU.
        start: the first step; the batches from there on are those of the whole epoch.
        drop_last: leave out the last batch if it is smaller.
        shuffle: False keeps the order of `ids`.
        dtype: floating point type of the images.
        channels_last: memory format of the images.
        multiple: images are padded so that their sides are multiples of it, in pixels.

    Raises:
        LbgnasError: a number out of range, at once; an image that cannot be read, at the step that needs it.
    """
    steps = num_steps(len(ids), batch_size, drop_last)
    if len(ids) and not steps:
        raise LbgnasError(f"batch_size: {batch_size} is more than the {len(ids)} samples, which leaves no whole batch")
    if not 0 <= start <= steps:
        raise LbgnasError(f"start: step {start} is not in this epoch of {steps} steps")
    if cutout < 0:
        raise LbgnasError(f"cutout: {cutout} pixels is below 0")
    target = torch.device(device)
    # The thread's kernels go to the caller's stream, so that the caller never reads a batch too early.
    stream = torch.cuda.current_stream(target) if target.type == "cuda" else None
    order = epoch_order(ids, seed, *words) if shuffle else ids
    order = order.cpu()
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def move(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory().to(target, non_blocking=True) if stream else tensor.to(target)

    def prepare(step: int) -> Batch:
        with torch.cuda.stream(stream) if stream else nullcontext():
            chosen = order[step * batch_size : (step + 1) * batch_size]
            images = move(data.images(chosen))
            rng = generator(seed, "augment", *words, step)
            if augment:
                images = transforms.random_crop(images, data.info.crop_padding, rng)
                images = transforms.random_flip(images, rng) if data.info.flip else images
            images = transforms.normalise(images.to(dtype), data.info.mean, data.info.std)
            if augment:
                images = transforms.cutout(images, cutout, rng)
            images = transforms.pad_to_multiple(images, multiple).contiguous(memory_format=layout)
            return Batch(images, move(data.labels[chosen]), move(chosen))

    return _ahead(prepare, range(start, steps))


def _ahead(prepare: Callable[[int], Batch], steps: range) -> Iterator[Batch]:
    """Yield `prepare(step)` for every step, each prepared by one thread while the one before is in use."""
    if not steps:
        return
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        pending = pool.submit(prepare, steps[0])
        for step in steps[1:]:
            ready, pending = pending.result(), pool.submit(prepare, step)
            yield ready
        yield pending.result()
