from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from lbgnas.data import transforms
from lbgnas.data.batches import Batch, batches, epoch_order, num_steps
from lbgnas.data.image_data import DataInfo, TensorImages
from lbgnas.data.seeds import generator
from lbgnas.errors import LbgnasError

INFO = DataInfo("tiny", 3, ("a", "b", "c"), 2, 6, (0.5, 0.25), (0.25, 0.5), crop_padding=2, flip=True)
IDS = torch.tensor([3, 4, 5, 8, 9, 13, 17, 20, 21, 22, 30])


def tiny() -> TensorImages:
    images = torch.randint(256, (31, 2, 6, 6), dtype=torch.uint8, generator=generator(0, "pixels"))
    return TensorImages(images, torch.arange(31) % 3, INFO, torch.arange(31) % 2)


def epoch(data: TensorImages | None = None, **options: Any) -> list[Batch]:
    given = {"seed": 5, "words": ("train", 2), "augment": True, "cutout": 2, **options}
    return list(batches(data or tiny(), given.pop("ids", IDS), given.pop("batch_size", 4), **given))


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)
    )


@pytest.mark.parametrize(("count", "size", "kept", "dropped"), [(0, 4, 0, 0), (1, 4, 1, 0), (8, 4, 2, 2), (9, 4, 3, 2)])
def test_num_steps(count: int, size: int, kept: int, dropped: int) -> None:
    assert (num_steps(count, size), num_steps(count, size, drop_last=True)) == (kept, dropped)


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_resuming_in_the_middle_gives_the_same_bits(start: int) -> None:
    torch.manual_seed(start)
    assert same(epoch(start=start), epoch()[start:])


def test_the_epoch_depends_on_seed_and_words_alone() -> None:
    first = epoch()
    torch.rand(7)
    assert same(epoch(), first)
    assert not same(epoch(words=("train", 3)), first)
    assert not same(epoch(seed=6), first)


def test_every_sample_comes_once_in_the_order_of_the_epoch() -> None:
    order = torch.cat([batch.ids for batch in epoch()])
    assert torch.equal(order, epoch_order(IDS, 5, "train", 2))
    assert torch.equal(order.sort().values, IDS)
    assert not torch.equal(order, IDS)
    assert [len(batch.ids) for batch in epoch()] == [4, 4, 3]
    assert [len(batch.ids) for batch in epoch(drop_last=True)] == [4, 4]
    assert torch.equal(torch.cat([batch.ids for batch in epoch(shuffle=False)]), IDS)


def test_batches_are_normalised_padded_and_labelled() -> None:
    data = tiny()
    for batch in epoch(augment=False):
        plain = (data.images(batch.ids) - torch.tensor([0.5, 0.25])[:, None, None]) / torch.tensor([0.25, 0.5])[
            :, None, None
        ]
        assert batch.images.shape[1:] == (2, 8, 8)
        assert torch.equal(batch.images[:, :, 1:7, 1:7], plain)
        assert torch.equal(batch.labels, data.labels[batch.ids])


def test_augmentation_is_crop_flip_normalise_cutout_pad() -> None:
    data, step = tiny(), 1
    batch = epoch()[step]
    rng = generator(5, "augment", "train", 2, step)
    images = transforms.random_flip(transforms.random_crop(data.images(batch.ids), 2, rng), rng)
    images = transforms.cutout(transforms.normalise(images, INFO.mean, INFO.std), 2, rng)
    assert torch.equal(batch.images, transforms.pad_to_multiple(images))


def test_flip_and_crop_follow_the_data() -> None:
    data = tiny()
    data.info = replace(INFO, crop_padding=0, flip=False)
    assert same(epoch(data, cutout=0), epoch(augment=False))


def test_no_batch_carries_the_attribute() -> None:
    assert Batch._fields == ("images", "labels", "ids")
    with_attribute = tiny()
    without = TensorImages(with_attribute.pixels, with_attribute.labels, INFO)
    assert same(epoch(with_attribute), epoch(without))


def test_dtype_and_memory_format() -> None:
    batch = epoch(dtype=torch.float64, channels_last=True)[0]
    assert batch.images.dtype == torch.float64
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert not batch.images.is_contiguous()
    assert epoch()[0].images.is_contiguous()
    single = epoch()[0].images.double()
    assert (batch.images - single).abs().max() < 1e-6


def test_no_samples_give_no_batch() -> None:
    assert epoch(ids=torch.tensor([], dtype=torch.long)) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 0}, "batch_size: 0 is below 1"),
        ({"batch_size": 12, "drop_last": True}, "batch_size: 12 is more than the 11 samples"),
        ({"start": 4}, "start: step 4 is not in this epoch of 3 steps"),
        ({"start": -1}, "start: step -1 is not in this epoch"),
        ({"cutout": -1}, "cutout: -1 pixels is below 0"),
    ],
)
def test_bad_numbers_are_refused_before_the_first_batch(options: dict[str, Any], sentence: str) -> None:
    given = {"batch_size": 4, "seed": 0, "words": (), "augment": False, **options}
    with pytest.raises(LbgnasError, match=sentence):
        batches(tiny(), IDS, **given)


class Watched(TensorImages):
    """Counts what was asked for, and fails at one sample id."""

    asked = 0
    bad = -1

    def images(self, ids: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        if self.bad in ids.tolist():
            raise LbgnasError(f"sample {self.bad} is bad")
        return super().images(ids)


def watched() -> Watched:
    return Watched(tiny().pixels, tiny().labels, INFO)


def loaders() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_one_batch_is_prepared_ahead_and_no_more() -> None:
    data = watched()
    iterator = batches(data, IDS, 2, seed=0, words=(), augment=False)
    next(iterator)
    deadline = time.monotonic() + 5
    while data.asked < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert data.asked == 2
    assert len(loaders()) == 1
    iterator.close()  # type: ignore[attr-defined]
    assert loaders() == []


def test_an_error_comes_at_its_step_and_ends_the_thread() -> None:
    data = watched()
    data.bad = int(IDS[5])
    iterator = batches(data, IDS, 2, seed=0, words=(), augment=False, shuffle=False)
    assert [next(iterator).ids.tolist() for _ in range(2)] == [[3, 4], [5, 8]]
    with pytest.raises(LbgnasError, match="sample 13 is bad"):
        next(iterator)
    assert loaders() == []
