from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lbgnas.data.image_data import DataInfo, TensorImages
from lbgnas.data.seeds import generator
from lbgnas.data.split import load_split, make_split, save_split, stratified_order
from lbgnas.errors import LbgnasError

LABELS = [0, 1, 0, 1, 2, 0, 1, 2, 0, 0]


def data_of(labels: list[int], pixel: int = 0) -> TensorImages:
    images = torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8)
    images[-1, 0, 3, 3] = pixel
    info = DataInfo("tiny", 5, tuple("abcde"), 1, 4, (0.5,), (0.5,))
    return TensorImages(images, torch.tensor(labels), info)


@settings(derandomize=True, deadline=None, database=None, max_examples=60)
@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=60),
    seed=st.integers(0, 2**40),
    portion=st.floats(0.05, 0.95),
)
def test_split_properties(labels: list[int], seed: int, portion: float) -> None:
    data = data_of(labels)
    if not 1 <= int(portion * len(labels) + 1e-9) <= len(labels) - 1:
        with pytest.raises(LbgnasError, match="half empty"):
            make_split(data, seed, portion)
        return
    split, again = make_split(data, seed, portion), make_split(data, seed, portion)
    assert torch.equal(split.train, again.train)
    assert split.seed == seed
    assert len(split.train) == int(portion * len(labels) + 1e-9)
    assert torch.equal(torch.cat([split.train, split.validation]).sort().values, torch.arange(len(labels)))
    for half in (split.train, split.validation):
        assert torch.equal(half, half.sort().values)
    counts = torch.bincount(data.labels, minlength=5)
    taken = torch.bincount(data.labels[split.train], minlength=5)
    # Each class is rounded to within 1/2; the total is made exact by what the classes' roundings add up to.
    slack = 0.5 + 0.5 * int((counts > 0).sum()) * counts / len(labels) + 1
    assert ((taken - portion * counts).abs() <= slack).all()


@settings(derandomize=True, deadline=None, database=None, max_examples=30)
@given(classes=st.integers(1, 5), each=st.integers(2, 12), cut=st.integers(1, 59))
def test_balanced_classes_differ_by_one_at_most(classes: int, each: int, cut: int) -> None:
    strata = torch.arange(classes).repeat(each)
    order = stratified_order(strata, generator(0))
    assert sorted(order.tolist()) == list(range(len(strata)))
    counts = torch.bincount(strata[order[:cut]], minlength=classes)
    assert counts.max() - counts.min() <= 1


def test_another_seed_gives_another_split() -> None:
    data = data_of([0, 1] * 50)
    assert not torch.equal(make_split(data, 0).train, make_split(data, 1).train)


@pytest.mark.parametrize("portion", [0.0, 1.0, -1.0, float("nan")])
def test_bad_portions_are_refused(portion: float) -> None:
    with pytest.raises(LbgnasError, match=r"train_portion: .* is not allowed; it must be above 0 and below 1"):
        make_split(data_of(LABELS), 0, portion)


def test_saved_split_comes_back(tmp_path: Path) -> None:
    data, path = data_of(LABELS), tmp_path / "split.json"
    path.write_text("old")
    split = make_split(data, 3)
    save_split(split, path)
    loaded = load_split(path, data)
    assert torch.equal(loaded.train, split.train)
    assert torch.equal(loaded.validation, split.validation)
    assert (loaded.seed, loaded.fingerprint) == (3, data.fingerprint())
    assert [file.name for file in tmp_path.iterdir()] == ["split.json"]


def test_changed_data_are_refused(tmp_path: Path) -> None:
    save_split(make_split(data_of(LABELS), 0), tmp_path / "split.json")
    with pytest.raises(LbgnasError, match=r"split\.json: the data changed since this run began"):
        load_split(tmp_path / "split.json", data_of(LABELS, pixel=1))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": "other"}, "this is not a split file"),
        ({"version": 2}, "split version 2 is not known to this program, it reads 1"),
        ({"seed": "0"}, "must have a whole number as seed"),
        ({"train": []}, "train must be a list of at least one sample id"),
        ({"train": [0, 1.5]}, "train must be a list of at least one sample id"),
        ({"validation": None}, "validation must be a list of at least one sample id"),
        ({"train": [0, 10]}, "train has the sample id 10, the data has 0 to 9"),
        ({"train": [10**30]}, "train has the sample id 10{30}, the data has 0 to 9"),
        ({"train": [-1]}, "train has the sample id -1"),
        ({"train": [3, 4, 3]}, "train has the sample id 3 twice"),
        ({"train": [1, 2], "validation": [2, 3]}, "sample id 2 is in both train and validation"),
    ],
)
def test_bad_split_files_are_refused(tmp_path: Path, change: dict[str, object], sentence: str) -> None:
    data, path = data_of(LABELS), tmp_path / "split.json"
    save_split(make_split(data, 0), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(LbgnasError, match=rf"split\.json.*{sentence}"):
        load_split(path, data)


@pytest.mark.parametrize("content", [b"", b'{"format": "lbgnas-split", "tr', b"\xff\xfe", b"[" * 100_000])
def test_broken_split_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "split.json"
    path.write_bytes(content)
    with pytest.raises(LbgnasError, match=r"split\.json: this split file is broken, it is not JSON"):
        load_split(path, data_of(LABELS))


def test_files_that_cannot_be_reached_are_named(tmp_path: Path) -> None:
    with pytest.raises(LbgnasError, match=r"none\.json: the split cannot be read \(No such file"):
        load_split(tmp_path / "none.json", data_of(LABELS))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(LbgnasError, match=r"split\.json: cannot be written \("):
        save_split(make_split(data_of(LABELS), 0), tmp_path / "list.json" / "split.json")
    with pytest.raises(LbgnasError, match="this is not a split file"):
        load_split(tmp_path / "list.json", data_of(LABELS))


def test_a_lone_sample_comes_in_the_middle_and_pairs_at_the_quarters() -> None:
    for seed in range(5):
        order = stratified_order(torch.tensor([0] * 97 + [1] + [2] * 2), generator(seed)).tolist()
        assert abs(order.index(97) - 49.5) < 2
        assert sorted(round(order.index(pair) / 25) for pair in (98, 99)) == [1, 3]
