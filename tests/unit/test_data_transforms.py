from __future__ import annotations

import pytest
import torch

from lbgnas.data import transforms
from lbgnas.data.seeds import generator
from lbgnas.errors import LbgnasError


def some_images(count: int = 40, channels: int = 3, height: int = 7, width: int = 9) -> torch.Tensor:
    # No pixel is zero, so that what was zeroed can be told.
    return torch.rand(count, channels, height, width, generator=generator(1, "images")) + 0.1


@pytest.mark.parametrize("padding", [1, 3])
def test_crop_equals_a_loop(padding: int) -> None:
    images = some_images()
    top, left = torch.randint(2 * padding + 1, (2, len(images)), generator=generator(0, "crop"))
    expected = torch.zeros_like(images)
    for n in range(len(images)):
        for y in range(7):
            for x in range(9):
                from_y, from_x = y + int(top[n]) - padding, x + int(left[n]) - padding
                if 0 <= from_y < 7 and 0 <= from_x < 9:
                    expected[n, :, y, x] = images[n, :, from_y, from_x]
    assert torch.equal(transforms.random_crop(images, padding, generator(0, "crop")), expected)


def test_crop_reaches_every_shift_and_no_other() -> None:
    images = torch.zeros(600, 1, 5, 5)
    images[:, 0, 2, 2] = 1
    moved = transforms.random_crop(images, 1, generator(0)).nonzero()[:, 2:]
    assert len(moved) == 600
    places, counts = torch.unique(moved, dim=0, return_counts=True)
    assert places.tolist() == [[y, x] for y in (1, 2, 3) for x in (1, 2, 3)]
    assert counts.min() > 600 / 9 / 2


def test_flip_equals_a_loop() -> None:
    images = some_images()
    mirrored = torch.randint(2, (len(images),), generator=generator(0, "flip"))
    expected = torch.stack(
        [image[:, :, range(8, -1, -1)] if m else image for image, m in zip(images, mirrored, strict=True)]
    )
    flipped = transforms.random_flip(images, generator(0, "flip"))
    assert torch.equal(flipped, expected)
    unchanged = (flipped == images).flatten(1).all(1).sum()
    assert 10 < unchanged < 30


@pytest.mark.parametrize("length", [2, 3, 4, 30])
def test_cutout_equals_a_loop(length: int) -> None:
    images = some_images()
    rng = generator(0, "cutout")
    centre_y = torch.randint(7, (len(images),), generator=rng)
    centre_x = torch.randint(9, (len(images),), generator=rng)
    expected = images.clone()
    for n in range(len(images)):
        y, x = int(centre_y[n]), int(centre_x[n])
        first_y, first_x = y - length // 2, x - length // 2
        expected[n, :, max(0, first_y) : max(0, first_y + length), max(0, first_x) : max(0, first_x + length)] = 0
    assert torch.equal(transforms.cutout(images, length, generator(0, "cutout")), expected)


def test_cutout_has_its_whole_area_inside_and_a_quarter_in_a_corner() -> None:
    holes = (transforms.cutout(torch.ones(2000, 1, 8, 8), 4, generator(0)) == 0).flatten(1).sum(1)
    # Clipped sides are 2, 3 or 4 long; each of the 8 centres a side is reached.
    assert set(holes.tolist()) == {4, 6, 8, 9, 12, 16}


def test_nothing_to_do_is_the_identity() -> None:
    images = some_images()
    assert transforms.random_crop(images, 0, generator(0)) is images
    assert transforms.cutout(images, 0, generator(0)) is images


def test_normalise_gives_mean_zero_and_deviation_one() -> None:
    images = some_images().double()
    mean, std = images.mean((0, 2, 3)).tolist(), images.std((0, 2, 3), correction=0).tolist()
    normal = transforms.normalise(images, mean, std)
    assert normal.mean((0, 2, 3)).abs().max() < 1e-12
    assert (normal.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-12


@pytest.mark.parametrize(("size", "padded"), [(1, 4), (28, 28), (29, 32), (30, 32), (32, 32)])
def test_padded_size(size: int, padded: int) -> None:
    assert transforms.padded_size(size) == padded


def test_padding_is_zero_and_its_odd_pixel_goes_right_and_down() -> None:
    images = some_images(2, 1, 5, 6)
    padded = transforms.pad_to_multiple(images)
    assert padded.shape == (2, 1, 8, 8)
    assert torch.equal(padded[:, :, 1:6, 1:7], images)
    assert (padded == 0).sum() == 2 * (64 - 30)
    assert transforms.pad_to_multiple(padded) is padded


def test_negative_lengths_are_refused() -> None:
    with pytest.raises(LbgnasError, match="padding: -1 pixels is below 0"):
        transforms.random_crop(some_images(), -1, generator(0))
    with pytest.raises(LbgnasError, match="cutout: -2 pixels is below 0"):
        transforms.cutout(some_images(), -2, generator(0))


def test_resized_keeps_a_constant_and_the_mean_of_a_ramp() -> None:
    ramp = torch.arange(0, 256, 16, dtype=torch.uint8).expand(1, 1, 16, 16)
    smaller = transforms.resized(ramp, 8)
    assert smaller.dtype == torch.uint8
    assert smaller.shape == (1, 1, 8, 8)
    assert abs(float(smaller.float().mean()) - float(ramp.float().mean())) < 1
    assert torch.equal(
        transforms.resized(torch.full((3, 1, 5, 5), 255, dtype=torch.uint8), 9),
        torch.full((3, 1, 9, 9), 255, dtype=torch.uint8),
    )
