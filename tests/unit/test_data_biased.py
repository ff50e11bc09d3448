"""Data sets whose attribute we assign: how it depends on the label, where it shows, and who may see it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lbgnas.config import DataOptions
from lbgnas.data.biased import TOPS
from lbgnas.data.fashion_mnist import DEBIAN_FOLDER
from lbgnas.data.sources import open_pool, open_test
from lbgnas.data.split import make_split
from lbgnas.data.synthetic import painted, painted_statistics
from lbgnas.errors import LbgnasError
from tests import layouts

FORMS = ["coloured-fashion-mnist", "marked-fashion-mnist", "coloured-cifar10"]


def write(name: str, folder: Path, pool: int = 1000, test: int = 200) -> str:
    if name == "coloured-cifar10":
        return f"{name}:{layouts.cifar10(folder, pool // 5)}"
    return f"{name}:{layouts.fashion_mnist(folder, pool, test)}"


def agreement(data, rows=slice(None)) -> float:
    return float(((data.labels % 2)[rows] == data.attribute[rows]).double().mean())


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("rho", [None, 0.8])
def test_the_attribute_agrees_with_the_label_as_often_as_stated(tmp_path: Path, name: str, rho: float | None) -> None:
    spec, options = write(name, tmp_path), DataOptions(rho=rho, balanced=0.2)
    pool, test = open_pool(spec, options=options), open_test(spec, options=options)
    held = pool.for_validation
    assert int(held.sum()) == 200
    assert agreement(pool, ~held) == pytest.approx(rho or 0.95, abs=1e-9)
    assert agreement(pool, held) == agreement(test) == 0.5
    for label in pool.labels.unique():
        rows = pool.labels == label
        assert agreement(pool, rows & ~held) == pytest.approx(rho or 0.95, abs=0.02)
        assert agreement(test, test.labels == label) == pytest.approx(0.5, abs=0.05)
    assert "synthetic" in pool.info.note
    assert f"= {rho or 0.95} in the pool" in pool.info.note


@pytest.mark.parametrize("name", FORMS)
def test_only_the_marked_form_is_partly_balanced_by_default(tmp_path: Path, name: str) -> None:
    pool = open_pool(write(name, tmp_path))
    if name == "marked-fashion-mnist":
        assert int(pool.for_validation.sum()) == 50
        assert "5.0% of the pool" in pool.info.note
    else:
        assert pool.for_validation is None
        assert "balanced" not in pool.info.note


@pytest.mark.parametrize("seed", [0, 1])
def test_the_balanced_part_stays_in_the_validation_half(tmp_path: Path, seed: int) -> None:
    pool = open_pool(write(FORMS[0], tmp_path), options=DataOptions(balanced=0.2))
    split = make_split(pool, seed)
    assert (len(split.train), len(split.validation)) == (500, 500)
    assert not pool.for_validation[split.train].any()
    assert sorted([*split.train.tolist(), *split.validation.tolist()]) == list(range(1000))
    assert torch.bincount(pool.labels[split.train]).tolist() == [250, 250]
    with pytest.raises(LbgnasError, match="validation"):
        make_split(pool, seed, 0.9)


def test_a_limit_keeps_the_balanced_part(tmp_path: Path) -> None:
    pool = open_pool(write(FORMS[0], tmp_path), options=DataOptions(balanced=0.2), limit=200)
    assert int(pool.for_validation.sum()) == 40
    assert agreement(pool, pool.for_validation) == 0.5


def test_tops_are_label_one(tmp_path: Path) -> None:
    pool = open_pool(write(FORMS[0], tmp_path))
    assert pool.labels.tolist() == [int(n % 10 in TOPS) for n in range(1000)]
    assert pool.info.class_names == (
        "trouser, sandal, sneaker, bag or ankle boot",
        "T-shirt/top, pullover, dress, coat or shirt",
    )
    assert (pool.info.size, pool.info.num_classes, pool.info.channels) == (14, 2, 3)


def test_colours_are_painted(tmp_path: Path) -> None:
    pool = open_pool(write(FORMS[0], tmp_path), image_size=28)
    rows = torch.arange(1000)
    grey = 100 + rows % 50
    assert torch.equal(pool.pixels[rows, pool.attribute][:, 5, 5], grey.byte())
    assert not pool.pixels[rows, 1 - pool.attribute].any()
    assert torch.equal(pool.pixels[:, 2, 0, 0], (grey / 4).round().byte())


def test_marks_are_a_faint_square(tmp_path: Path) -> None:
    pool = open_pool(write(FORMS[1], tmp_path), image_size=14)
    grey = (100 + torch.arange(1000) % 50)[:, None, None, None]
    more = pool.pixels.int() - grey
    expected = torch.zeros(14, 14, dtype=torch.int)
    expected[1:4, 1:4] = 100
    assert torch.equal(more[:, 0], expected * pool.attribute[:, None, None])
    assert pool.info.channels == 1


def test_cifar_is_made_grey(tmp_path: Path) -> None:
    pool, plain = open_pool(write(FORMS[2], tmp_path)), open_pool(f"cifar10:{tmp_path}")
    coloured = pool.attribute == 1
    assert torch.equal(pool.labels, plain.labels)
    assert torch.equal(pool.pixels[coloured], plain.pixels[coloured])
    grey = pool.pixels[~coloured].float()
    assert torch.equal(grey[:, 0], grey[:, 1])
    assert torch.equal(grey[:, 0], grey[:, 2])
    luma = plain.pixels[~coloured].float().mul(torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    assert (grey[:, 0] - luma).abs().max() <= 0.5 + 1e-4


def test_statistics_of_painted_images() -> None:
    grey = torch.randint(0, 256, (4000, 1, 2, 2), generator=torch.Generator().manual_seed(0)).byte()
    images = torch.cat([painted(grey, torch.full((4000,), colour)) for colour in (0, 1)]).double() / 255
    scaled = grey.double() / 255
    mean, std = painted_statistics(float(scaled.mean()), float(scaled.std(correction=0)))
    assert mean == pytest.approx(images.mean((0, 2, 3)).tolist(), abs=2e-3)
    assert std == pytest.approx(images.std((0, 2, 3), correction=0).tolist(), abs=2e-3)


@pytest.mark.parametrize("name", FORMS)
def test_the_same_each_time_and_another_for_another_rho(tmp_path: Path, name: str) -> None:
    spec = write(name, tmp_path)
    first = open_pool(spec).fingerprint()
    torch.manual_seed(7)
    assert open_pool(spec).fingerprint() == first
    assert open_pool(spec, options=DataOptions(rho=0.9)).fingerprint() != first
    assert open_pool(spec, options=DataOptions(balanced=0.1)).fingerprint() != first


def test_other_data_refuse_the_options() -> None:
    with pytest.raises(LbgnasError, match=r"--rho: coloured-digits takes no such option; coloured-fashion-mnist, "):
        open_pool("coloured-digits", options=DataOptions(rho=0.9))


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_images() -> None:
    pool, test = open_pool("coloured-fashion-mnist"), open_test("coloured-fashion-mnist")
    assert (len(pool), len(test)) == (60_000, 10_000)
    table = torch.bincount(pool.labels * 2 + pool.attribute).tolist()
    assert table == [28_500, 1_500, 1_500, 28_500]
    assert torch.bincount(test.labels * 2 + test.attribute).tolist() == [2_500] * 4
