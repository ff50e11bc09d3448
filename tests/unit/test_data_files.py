"""Data sets of image files: tiny copies of each layout through the same code, and what is wrong with them."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lbgnas.config import DataOptions, validated
from lbgnas.data import celeba, image_files
from lbgnas.data.sources import open_pool, open_test
from lbgnas.data.split import make_split
from lbgnas.data.statistics import described, left_out
from lbgnas.engine.groups import GroupTraining
from lbgnas.errors import LbgnasError
from lbgnas.group_settings import GroupSettings
from tests import layouts


def centre(path: Path, size: int) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[:, :size, 1 : 1 + size] / 255


# CelebA


@pytest.mark.parametrize("inner", ["", "celeba"])
def test_celeba_official(tmp_path: Path, inner: str) -> None:
    rows = layouts.celeba(tmp_path / inner, 20)
    pool, test = open_pool(f"celeba:{tmp_path}", image_size=10), open_test(f"celeba:{tmp_path}", image_size=10)
    assert (len(pool), len(test)) == (16, 4)
    assert pool.labels.tolist() == [int(row[1] == 1) for row in rows[:16]]
    assert pool.attribute.tolist() == [int(row[3] == 1) for row in rows[:16]]
    assert test.labels.tolist() == [int(row[1] == 1) for row in rows[16:]]
    assert pool.for_validation.tolist() == [False] * 12 + [True] * 4
    assert test.for_validation is None
    assert pool.info.class_names == ("not Attractive", "Attractive")
    assert (pool.info.attribute_name, pool.info.attribute_values) == ("Male", ("female", "male"))
    expected = centre(tmp_path / inner / "img_align_celeba" / "000018.jpg", 10)
    assert torch.equal(test.images(torch.tensor([1]))[0], expected)


def test_celeba_other_attributes(tmp_path: Path) -> None:
    rows = layouts.celeba(tmp_path, 20)
    data = open_pool(f"celeba:{tmp_path}", options=DataOptions(target="Blond_Hair", sensitive="Young"))
    assert data.labels.tolist() == [int(row[2] == 1) for row in rows[:16]]
    assert data.attribute.tolist() == [int(row[4] == 1) for row in rows[:16]]
    assert data.info.attribute_values == ("not Young", "Young")
    assert data.info.size == 128


def test_celeba_as_csv(tmp_path: Path) -> None:
    layouts.celeba(tmp_path, 20)
    before = open_pool(f"celeba:{tmp_path}").fingerprint()
    for name, heads in (("list_attr_celeba", layouts.CELEBA_NAMES), ("list_eval_partition", ["partition"])):
        lines = (tmp_path / f"{name}.txt").read_text().splitlines()[2 if len(heads) > 1 else 0 :]
        text = "\n".join([",".join(["image_id", *heads]), *(",".join(line.split()) for line in lines)])
        (tmp_path / f"{name}.csv").write_text(text + "\n")
        (tmp_path / f"{name}.txt").unlink()
    assert open_pool(f"celeba:{tmp_path}").fingerprint() == before


def test_celeba_paper_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(celeba, "_PAPER", (14, 3, 3))
    layouts.celeba(tmp_path, 40, images=0)
    options = DataOptions(split_scheme="paper")
    pool, test = (opened(f"celeba:{tmp_path}", options=options) for opened in (open_pool, open_test))
    assert (len(pool), int(pool.for_validation.sum()), len(test)) == (17, 3, 3)
    assert not set(pool.names) & set(test.names)
    assert open_pool(f"celeba:{tmp_path}", options=options).names == pool.names
    monkeypatch.setattr(celeba, "_PAPER", (7000, 1500, 1500))
    with pytest.raises(LbgnasError, match="has 40 images; the paper's split needs 10000"):
        open_pool(f"celeba:{tmp_path}", options=options)


def spoiled(name: str, old: str, new: str):
    def spoil(folder: Path) -> None:
        path = folder / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda p: (p / "list_attr_celeba.txt").unlink(), {}, r"list_attr_celeba\.txt was not found"),
        (lambda p: (p / "list_eval_partition.txt").unlink(), {}, r"list_eval_partition\.txt was not found"),
        (lambda p: (p / "img_align_celeba").rename(p / "img"), {}, "img_align_celeba was not found"),
        (spoiled("list_attr_celeba.txt", "000002.jpg  1", "000002.jpg"), {}, "line 4 has 4 attributes, the header 5"),
        (spoiled("list_attr_celeba.txt", "000001.jpg -1 -1", "000001.jpg -1  7"), {}, "line 3 has '7' as Attractive"),
        (spoiled("list_eval_partition.txt", "000003.jpg 0", "000003.jpg"), {}, "line 3 is '000003.jpg'"),
        (spoiled("list_eval_partition.txt", "000003.jpg 0", "000003.jpg 3"), {}, r"says '3' of 000003\.jpg"),
        (spoiled("list_eval_partition.txt", "000003.jpg 0\n", ""), {}, r"says None of 000003\.jpg"),
        (lambda p: None, {"target": "Attractiv"}, "--target, .*unknown attribute .* did you mean 'Attractive'"),
        (lambda p: None, {"sensitive": "Sex"}, "--sensitive, .*unknown attribute 'Sex'"),
    ],
)
def test_broken_celeba_is_one_sentence(tmp_path: Path, spoil, options: dict, message: str) -> None:
    layouts.celeba(tmp_path, 20, images=0)
    spoil(tmp_path)
    with pytest.raises(LbgnasError, match=message) as caught:
        open_pool(f"celeba:{tmp_path}", options=DataOptions(**options))
    assert "\n" not in str(caught.value)


# ISIC


COUNTS = {"Training": 14, "Validation": 7, "Test": 8}


def test_isic_official_and_paper(tmp_path: Path) -> None:
    layouts.isic18(tmp_path, COUNTS, ["male", "female", "unknown", ""])
    pool, test = open_pool(f"isic18:{tmp_path}"), open_test(f"isic18:{tmp_path}")
    assert (len(pool), len(test)) == (21, 8)
    assert pool.labels.tolist() == [n % 7 for n in range(14)] + list(range(7))
    assert pool.attribute.tolist() == [0, 1, -1, -1] * 3 + [0, -1] + [0, 1, -1, -1, 0, 1, -1]
    assert pool.for_validation.tolist() == [False] * 14 + [True] * 7
    assert pool.info.size == 224
    paper = DataOptions(split_scheme="paper")
    pool, test = (opened(f"isic18:{tmp_path}", options=paper, image_size=10) for opened in (open_pool, open_test))
    assert (len(pool), len(test)) == (22, 7)
    expected = centre(tmp_path / "ISIC2018_Task3_Validation_Input" / "ISIC_0000015.jpg", 10)
    assert torch.equal(test.images(torch.tensor([1]))[0], expected)


def test_isic_as_the_papers_code_lays_it(tmp_path: Path) -> None:
    layouts.isic18(tmp_path, COUNTS, ["female"])
    for part, name in (("Training", "train"), ("Validation", "val"), ("Test", "test")):
        (tmp_path / f"ISIC2018_Task3_{part}_Input").rename(tmp_path / f"ISIC18_{name}")
        inner = tmp_path / f"ISIC2018_Task3_{part}_GroundTruth"
        inner.mkdir()
        (tmp_path / f"{inner.name}.csv").rename(inner / f"{inner.name}.csv")
    (tmp_path / "ISIC18_train" / "ISIC_0000000.jpg").rename(tmp_path / "ISIC18_train" / "ISIC_0000000.JPG")
    text = (tmp_path / "metadata.csv").read_text().replace("isic_id", "image_id")
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "HAM10000_metadata.csv").write_text(text)
    pool = open_pool(f"isic18:{tmp_path}", image_size=8)
    assert pool.attribute.tolist() == ([1] * 13 + [-1]) + ([1] * 6 + [-1])
    assert pool.images(torch.arange(21)).shape == (21, 3, 8, 8)


def test_unknown_sex_is_counted(tmp_path: Path) -> None:
    layouts.isic18(tmp_path, COUNTS, ["male", "female", "unknown"])
    text = " ".join(described(open_pool(f"isic18:{tmp_path}")).split())
    assert "21 images of 224 pixels, 7 classes, attribute sex" in text
    assert "| label | male | female | unknown |" in text
    assert "| MEL | 2 | 1 | 0 |" in text
    assert "7 of them stay in the validation half" in text
    assert "left out of the fairness metrics" in text
    limited = open_pool(f"isic18:{tmp_path}", limit=20)
    assert len(limited) == 20


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: (p / "metadata.csv").unlink(), r"metadata\.csv was not found"),
        (spoiled("metadata.csv", "sex", "gender"), "unknown column 'sex'"),
        (spoiled("ISIC2018_Task3_Test_GroundTruth.csv", "1.0,0.0", "1.0,1.0"), "ISIC_0000021 has 1.0 1.0"),
        (spoiled("ISIC2018_Task3_Test_GroundTruth.csv", "MEL,", ""), "unknown column 'MEL'"),
        (lambda p: (p / "ISIC2018_Task3_Test_GroundTruth.csv").unlink(), r"Test_GroundTruth\.csv was not found"),
    ],
)
def test_broken_isic_is_one_sentence(tmp_path: Path, spoil, message: str) -> None:
    layouts.isic18(tmp_path, COUNTS, ["male"])
    spoil(tmp_path)
    with pytest.raises(LbgnasError, match=message):
        open_test(f"isic18:{tmp_path}")


# ImageNet


def test_imagenet_searches_in_a_part(tmp_path: Path) -> None:
    layouts.imagenet(tmp_path, train=40, val=2)
    pool, test = open_pool(f"imagenet:{tmp_path}"), open_test(f"imagenet:{tmp_path}")
    assert (len(pool), len(test)) == (80, 4)
    assert pool.info.class_names == ("n00000000", "n00000001")
    split = make_split(pool, 0)
    assert (len(split.train), len(split.validation)) == (8, 2)
    assert not set(split.train.tolist()) & set(split.validation.tolist())
    assert torch.bincount(pool.labels[split.train]).tolist() == [4, 4]
    assert torch.bincount(pool.labels[split.validation]).tolist() == [1, 1]
    assert len(make_split(pool, 0, 0.5).validation) == 40


def test_imagenet_classes_must_agree(tmp_path: Path) -> None:
    layouts.imagenet(tmp_path, train=1, val=1, classes=3)
    (tmp_path / "val" / "n00000002").rename(tmp_path / "val" / "n00000009")
    with pytest.raises(LbgnasError, match="the class 'n00000002' is in only one of train and val"):
        open_test(f"imagenet:{tmp_path}")
    with pytest.raises(LbgnasError, match="there is no such folder"):
        open_pool(f"imagenet:{tmp_path / 'x'}")
    (tmp_path / "train").rename(tmp_path / "away")
    with pytest.raises(LbgnasError, match=r"train: there is no such folder"):
        open_test(f"imagenet:{tmp_path}")


def test_fixed_networks_are_grouped_on_halves_of_imagenet(tmp_path: Path) -> None:
    layouts.imagenet(tmp_path / "data", train=10, val=1)
    told = {"data": f"imagenet:{tmp_path / 'data'}", "experts": "resnet18", "width": 4, "image_size": 16}
    run = GroupTraining(validated(GroupSettings, told, "test"), tmp_path / "run")
    assert (len(run.split.train), len(run.split.validation)) == (10, 10)


# Folders with attributes


def write_folder(root: Path) -> None:
    for part in ("train", "test"):
        for k, name in enumerate(("cat", "dog")):
            for n in range(4):
                layouts.image(root / part / name / f"{n}.png", 10 * k + n)
    lines = [f"train/cat/{n}.png,{'fm'[n % 2]},x" for n in range(4)] + ["train/dog/0.png,,y", "test/dog/1.png,m,x"]
    (root / "a.csv").write_text("\n".join(["file,sex,site", *lines]) + "\n")


def test_folder_with_attributes(tmp_path: Path) -> None:
    write_folder(tmp_path)
    options = DataOptions(attributes=str(tmp_path / "a.csv"), sensitive="sex")
    pool, test = (opened(f"folder:{tmp_path}", options=options) for opened in (open_pool, open_test))
    assert pool.attribute.tolist() == [0, 1, 0, 1, -1, -1, -1, -1]
    assert test.attribute.tolist() == [-1] * 5 + [1, -1, -1]
    assert (pool.info.attribute_name, pool.info.attribute_values) == ("sex", ("f", "m"))
    assert pool[0][3] == 0
    assert pool.select(torch.tensor([3])).attribute.tolist() == [1]
    assert open_pool(f"folder:{tmp_path}").attribute is None


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda p: None, {}, "--sensitive: needed, for .* has 2 columns: sex, site"),
        (lambda p: None, {"sensitive": "sext"}, "unknown column 'sext'.*did you mean 'sex'"),
        (spoiled("a.csv", "train/cat/1.png", "train/cat/7.png"), {"sensitive": "sex"}, "'train/cat/7.png' is not in"),
        (spoiled("a.csv", "train/cat/1.png", "train/cat/0.png"), {"sensitive": "sex"}, "has more than one row"),
        (spoiled("a.csv", "train/cat/1.png,", ","), {"sensitive": "sex"}, "line 3 has nothing in column 'file'"),
        (spoiled("a.csv", ",m,x", ",m"), {"sensitive": "sex"}, "line 3 has 2 fields, the header has 3"),
        (lambda p: (p / "a.csv").unlink(), {"sensitive": "sex"}, "cannot be read as CSV"),
    ],
)
def test_attributes_that_do_not_fit_are_one_sentence(tmp_path: Path, spoil, options: dict, message: str) -> None:
    write_folder(tmp_path)
    spoil(tmp_path)
    with pytest.raises(LbgnasError, match=message):
        open_pool(f"folder:{tmp_path}", options=DataOptions(attributes=str(tmp_path / "a.csv"), **options))


def test_a_sensitive_column_needs_its_file(tmp_path: Path) -> None:
    write_folder(tmp_path)
    with pytest.raises(LbgnasError, match="--sensitive sex: needs --attributes"):
        open_pool(f"folder:{tmp_path}", options=DataOptions(sensitive="sex"))


# Bad and large images


def test_bad_images_are_left_out_counted_and_listed(tmp_path: Path) -> None:
    write_folder(tmp_path)
    for name in ("cat/1.png", "dog/3.png"):
        whole = (tmp_path / "train" / name).read_bytes()
        (tmp_path / "train" / name).write_bytes(whole[: len(whole) // 2])
    spec, skipping = f"folder:{tmp_path}", DataOptions(skip_bad_images=True)
    with pytest.raises(LbgnasError, match=r"cat/1\.png: this image cannot be read .*--skip-bad-images"):
        open_pool(spec).images(torch.arange(8))
    pool = open_pool(spec, options=skipping)
    assert pool.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert pool.info.skipped == ("cat/1.png", "dog/3.png")
    assert pool.images(torch.arange(6)).shape == (6, 3, 32, 32)
    assert "2 images could not be read and were left out: cat/1.png, dog/3.png." in described(pool)
    assert left_out(pool.info.skipped[:1]) == "1 image could not be read and was left out: cat/1.png."
    assert open_test(spec, options=skipping).info.skipped == ()
    both = DataOptions(skip_bad_images=True, attributes=str(tmp_path / "a.csv"), sensitive="sex")
    assert open_pool(spec, options=both).attribute.tolist() == [0, 0, 1, -1, -1, -1]


def test_a_folder_of_bad_images_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_text("no image")
    with pytest.raises(LbgnasError, match="none of 2 images can be read"):
        open_pool(f"folder:{tmp_path}", options=DataOptions(skip_bad_images=True))


def test_only_a_few_large_images_are_held_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k, name in enumerate(("a", "b")):
        for n in range(8):
            layouts.image(tmp_path / name / f"{n}.jpg", 8 * k + n, (400, 300))
    lock, open_now, most, sizes = threading.Lock(), 0, 0, set()
    original = image_files._middle_square

    def watched(image, size):
        nonlocal open_now, most
        with lock:
            open_now += 1
            most = max(most, open_now)
            sizes.add(image.size)
        try:
            return original(image, size)
        finally:
            with lock:
                open_now -= 1

    monkeypatch.setattr(image_files, "_middle_square", watched)
    data = open_pool(f"folder:{tmp_path}", image_size=16)
    images = data.images(torch.arange(len(data)))
    assert images.shape == (len(data), 3, 16, 16)
    assert most <= 4
    # A JPEG of 400 x 300 is never decoded in full where 32 pixels are enough.
    assert sizes == {(50, 38)}


# What is printed


def test_description_without_attribute_and_of_many_classes(tmp_path: Path) -> None:
    layouts.imagenet(tmp_path, train=2, val=1, classes=45)
    layouts.image(tmp_path / "train" / "n00000003" / "more.png")
    text = " ".join(described(open_pool(f"imagenet:{tmp_path}")).split())
    assert "91 images of 224 pixels, 45 classes | label" in text
    assert "| smallest class | 2 | | largest class | 3 | | all | 91 |" in text
