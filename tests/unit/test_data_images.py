from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lbgnas.data.file_images import class_folders, photographs
from lbgnas.data.image_data import DataInfo, TensorImages
from lbgnas.errors import LbgnasError

INFO = DataInfo("tiny", 2, ("no", "yes"), 1, 4, (0.5,), (0.25,))


def tiny(attribute: bool = False) -> TensorImages:
    images = torch.arange(6 * 16, dtype=torch.uint8).reshape(6, 1, 4, 4)
    return TensorImages(
        images,
        torch.tensor([0, 1, 0, 1, 0, 1]),
        INFO,
        torch.tensor([0, 0, 1, 1, 2, 2]) if attribute else None,
    )


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_images_are_scaled_and_in_the_order_asked_for() -> None:
    images = tiny().images(torch.tensor([5, 0]))
    assert images.dtype == torch.float32
    assert torch.equal(images.flatten(), torch.tensor([*range(80, 96), *range(16)]) / 255)


def test_float_images_are_not_scaled() -> None:
    pixels = torch.linspace(0, 1, 16).reshape(1, 1, 4, 4)
    assert torch.equal(TensorImages(pixels, torch.tensor([1]), INFO).images(torch.tensor([0])), pixels)


def test_samples_have_image_label_id_and_attribute_if_there_is_one() -> None:
    image, *rest = tiny()[-1]
    assert rest == [1, 5]
    assert torch.equal(image, tiny().images(torch.tensor([5]))[0])
    assert [sample[1:] for sample in tiny(attribute=True)] == [
        (0, 0, 0),
        (1, 1, 0),
        (0, 2, 1),
        (1, 3, 1),
        (0, 4, 2),
        (1, 5, 2),
    ]


def test_select_numbers_anew() -> None:
    chosen = tiny(attribute=True).select(torch.tensor([1, 4]))
    assert [sample[1:] for sample in chosen] == [(1, 0, 0), (0, 1, 2)]
    assert torch.equal(chosen.images(torch.tensor([1])), tiny().images(torch.tensor([4])))


def test_fingerprint_changes_with_any_content() -> None:
    images, labels, attribute = (
        torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
        torch.tensor([0, 1]),
        torch.tensor([1, 0]),
    )
    pixel, label, group = images.clone(), labels.clone(), attribute.clone()
    pixel[1, 0, 3, 3], label[0], group[1] = 1, 1, 1
    prints = {
        data.fingerprint()
        for data in (
            TensorImages(images, labels, INFO, attribute),
            TensorImages(pixel, labels, INFO, attribute),
            TensorImages(images, label, INFO, attribute),
            TensorImages(images, labels, INFO, group),
            TensorImages(images, labels, INFO),
            TensorImages(images, labels, replace(INFO, name="other"), attribute),
        )
    }
    assert len(prints) == 6
    assert all(len(text) == 64 for text in prints)
    assert TensorImages(images.clone(), labels, INFO, attribute).fingerprint() in prints


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (torch.zeros(2, 4, 4), [0, 1], "images have the shape 2x4x4, it must be Nx1x4x4"),
        (torch.zeros(0, 1, 4, 4), [], "with N at least 1"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.long), [0, 1], "images are torch.int64, they must be uint8"),
        (
            torch.tensor([0.0, 1.0, torch.inf]).reshape(3, 1, 1, 1).expand(3, 1, 4, 4),
            [0, 1, 0],
            "sample id 2 has a pixel that is not finite",
        ),
        (
            torch.tensor([0.0, torch.nan, 2.0]).reshape(3, 1, 1, 1).expand(3, 1, 4, 4),
            [0, 1, 0],
            "sample id 1 has a pixel that is not finite",
        ),
        (
            torch.tensor([0.0, 1.5]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4),
            [0, 1],
            "sample id 1 has a pixel outside 0 to 1",
        ),
        (torch.zeros(2, 1, 4, 4), [0, 1, 0], "they must be 2 whole numbers"),
        (
            torch.zeros(2, 1, 4, 4),
            [0.0, 1.0],
            "labels are torch.float32 of shape 2, they must be 2 whole numbers",
        ),
        (torch.zeros(2, 1, 4, 4), [0, 2], "label 2 of sample id 1 is not allowed; it must be 0 to 1"),
    ],
)
def test_bad_tensors_are_refused(images: torch.Tensor, labels: list[float], sentence: str) -> None:
    with pytest.raises(LbgnasError, match=f"tiny: .*{sentence}"):
        TensorImages(images, torch.tensor(labels), INFO)


def test_bad_attributes_and_ids_are_refused() -> None:
    with pytest.raises(LbgnasError, match="attribute -2 of sample id 1 is not allowed; it must be -1 or more"):
        TensorImages(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), INFO, torch.tensor([0, -2]))
    with pytest.raises(LbgnasError, match="sample id -1 is not in the data; allowed are 0 to 5"):
        tiny().images(torch.tensor([2, -1]))
    with pytest.raises(LbgnasError, match="sample id 6 is not in the data"):
        tiny().select(torch.tensor([6]))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_classes": 3}, "2 class names for 3 classes"),
        ({"mean": (0.5, 0.5)}, "one number for each of 1 channels"),
        ({"std": (0.0,)}, "must be above 0"),
    ],
)
def test_bad_info_is_refused(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(LbgnasError, match=sentence):
        replace(INFO, **change)


def folder(root: Path, size: int):
    return class_folders(root, photographs("folder", (), size))


def test_folder_scales_the_shorter_side_and_keeps_the_middle(tmp_path: Path) -> None:
    # 8 x 24, three squares side by side: red, green, blue; halving it and cropping leaves the green one.
    pixels = np.zeros((8, 24, 3), np.uint8)
    for square in range(3):
        pixels[:, square * 8 : square * 8 + 8, square] = 255
    save(tmp_path / "a" / "wide.png", pixels)
    save(tmp_path / "b" / "tall.BMP", pixels.transpose(1, 0, 2))
    save(tmp_path / "b" / "grey.webp", np.full((4, 4), 128, np.uint8))
    save(tmp_path / ".hidden" / "x.png", pixels)
    (tmp_path / "b" / "notes.txt").write_text("not an image")
    data = folder(tmp_path, 4)
    assert data.info.class_names == ("a", "b")
    assert data.labels.tolist() == [0, 1, 1]
    wide, grey, tall = data.images(torch.arange(3))
    assert wide.shape == (3, 4, 4)
    for image in (wide, tall):
        assert torch.equal(image[:, 1:3, 1:3], torch.tensor([0.0, 1.0, 0.0])[:, None, None].expand(3, 2, 2))
    assert (grey - 128 / 255).abs().max() < 0.02
    assert torch.equal(data[2][0], tall)
    assert data[2][1:] == (1, 2)
    chosen = data.select(torch.tensor([2]))
    assert chosen.info.num_classes == 2
    assert torch.equal(chosen.images(torch.tensor([0]))[0], tall)


def test_folder_fingerprint_changes_with_names_and_lengths(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        save(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    first = folder(tmp_path, 4).fingerprint()
    assert folder(tmp_path, 4).fingerprint() == first
    assert folder(tmp_path, 5).fingerprint() != first
    assert folder(tmp_path, 4).select(torch.tensor([0, 2])).fingerprint() != first
    (tmp_path / "a" / "2.png").rename(tmp_path / "a" / "3.png")
    renamed = folder(tmp_path, 4).fingerprint()
    with (tmp_path / "b" / "1.png").open("ab") as file:
        file.write(b"\0")
    assert len({first, renamed, folder(tmp_path, 4).fingerprint()}) == 3
    data = folder(tmp_path, 4)
    (tmp_path / "a" / "3.png").unlink()
    with pytest.raises(LbgnasError, match=r"3\.png: cannot be read \(No such file"):
        data.fingerprint()


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    for name in ("a/fine.png", "a/short.png", "b/text.jpg"):
        save(tmp_path / name, np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    whole = (tmp_path / "a" / "short.png").read_bytes()
    (tmp_path / "a" / "short.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b" / "text.jpg").write_text("hello")
    data = folder(tmp_path, 4)
    assert data.images(torch.tensor([0])).shape == (1, 3, 4, 4)
    for sample_id, name in ((1, "short.png"), (2, "text.jpg")):
        with pytest.raises(LbgnasError, match=f"{name}: this image cannot be read"):
            data.images(torch.tensor([0, sample_id]))
