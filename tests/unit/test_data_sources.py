from __future__ import annotations

import gzip
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lbgnas.data import fashion_mnist
from lbgnas.data.sources import DATA_NAMES, check_spec, open_pool, open_test
from lbgnas.errors import LbgnasError

RNG = np.random.default_rng(0)


# The specification


def test_checking_a_spec_does_not_import_torch() -> None:
    code = (
        "import sys; from lbgnas.data.sources import check_spec; check_spec('cifar10:x'); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"


def test_specs() -> None:
    assert DATA_NAMES[:2] == ("coloured-digits", "fashion-mnist")
    assert check_spec("coloured-digits") == ("coloured-digits", None)
    assert check_spec("fashion-mnist") == ("fashion-mnist", None)
    assert check_spec("folder:a:b") == ("folder", Path("a:b"))
    assert check_spec("cifar10:~") == ("cifar10", Path.home())


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("cifar-10:x", "--data: unknown data set 'cifar-10'; allowed are .*; did you mean 'cifar10'"),
        ("", "unknown data set ''"),
        ("cifar10", "'cifar10' lacks its folder; give cifar10:PATH"),
        ("folder:", "'folder:' lacks its folder"),
        ("fashion-mnist: ", "lacks its folder"),
        ("coloured-digits:x", "coloured-digits takes no path"),
        ("folder:~nobody-of-this-name/x", "the home folder in .* is not known"),
    ],
)
def test_bad_specs_are_refused(spec: str, sentence: str) -> None:
    with pytest.raises(LbgnasError, match=sentence):
        check_spec(spec)


# Coloured digits


def cells(data: Any) -> list[list[int]]:
    return torch.bincount(data.labels * 2 + data.attribute, minlength=4).reshape(2, 2).tolist()


def test_colours_agree_with_labels_exactly_as_stated() -> None:
    pool, test = open_pool("coloured-digits"), open_test("coloured-digits")
    assert (len(pool), len(test)) == (1797 - 449, 449)
    for data, agreement in ((pool, 0.8), (test, 0.5)):
        for label, row in enumerate(cells(data)):
            assert row[label] == round(agreement * sum(row))
            assert min(row) > 0
    assert "synthetic" in pool.info.note
    assert "0.8 in the pool" in pool.info.note
    assert pool.info.attribute_name == "colour"
    assert pool.info == test.info


def test_digits_are_drawn_in_their_colour() -> None:
    data = open_pool("coloured-digits")
    images = data.images(torch.arange(len(data)))
    assert images.shape[1:] == (3, 8, 8)
    drawn, other = (
        images[torch.arange(len(data)), data.attribute],
        images[torch.arange(len(data)), 1 - data.attribute],
    )
    assert (other == 0).all()
    assert (drawn.flatten(1).max(1).values > 0.5).all()
    assert (images[:, 2] - 0.25 * drawn).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.tensor(data.info.mean) == pytest.approx(images.mean((0, 2, 3)), abs=1e-5)
    assert torch.tensor(data.info.std) == pytest.approx(images.std((0, 2, 3), correction=0), abs=1e-5)


def test_labels_and_splits_are_those_of_the_digits() -> None:
    from sklearn.datasets import load_digits

    source = load_digits()
    label_of = {
        (np.floor(image * 255 / 16 + 0.5).astype(np.uint8)).tobytes(): int(digit in (0, 3, 6, 8, 9))
        for image, digit in zip(source.images, source.target, strict=True)
    }
    seen = []
    for data in (open_pool("coloured-digits", image_size=8), open_test("coloured-digits", image_size=8)):
        images = data.images(torch.arange(len(data))).mul(255).round().byte()
        keys = [images[n, data.attribute[n]].numpy().tobytes() for n in range(len(data))]
        assert [label_of[key] for key in keys] == data.labels.tolist()
        seen += keys
    assert set(seen) == set(label_of)


def test_coloured_digits_are_the_same_each_time() -> None:
    torch.manual_seed(1)
    first = open_pool("coloured-digits").fingerprint()
    torch.manual_seed(2)
    assert open_pool("coloured-digits").fingerprint() == first
    assert open_test("coloured-digits").fingerprint() != first


def test_a_limit_keeps_the_make_up() -> None:
    data, larger = open_pool("coloured-digits", limit=200), open_pool("coloured-digits", limit=400)
    assert len(data) == 200
    for label, row in enumerate(cells(data)):
        assert abs(row[label] / sum(row) - 0.8) < 0.02
    small = {image.numpy().tobytes() for image in data.images(torch.arange(200))}
    assert small <= {image.numpy().tobytes() for image in larger.images(torch.arange(400))}
    assert len(open_pool("coloured-digits", limit=10**6)) == 1348


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"limit": 0}, "limit: 0 is below 1"),
        ({"image_size": 3}, "image_size: 3 is not allowed; it must be 4 to 4096 pixels"),
    ],
)
def test_bad_options_are_refused(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(LbgnasError, match=sentence):
        open_test("coloured-digits", **options)


# Fashion-MNIST


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def write_fashion(folder: Path, packed: bool) -> np.ndarray:
    folder.mkdir(parents=True)
    images = RNG.integers(0, 256, (20, 28, 28), np.uint8)
    for prefix, first in (("train", 0), ("t10k", 10)):
        for kind, array in (
            ("images-idx3", images[first:]),
            ("labels-idx1", np.arange(first, 20).astype(np.uint8) % 10),
        ):
            name, content = f"{prefix}-{kind}-ubyte", idx(array)
            (folder / (f"{name}.gz" if packed else name)).write_bytes(
                gzip.compress(content, mtime=0) if packed else content
            )
    return images


@pytest.mark.parametrize(
    ("inside", "packed"),
    [(".", True), ("x", False), ("x/FashionMNIST/raw", False), ("x/FashionMNIST/raw", True)],
)
def test_fashion_mnist_loads(tmp_path: Path, inside: str, packed: bool) -> None:
    images = (
        write_fashion(tmp_path / "data" / inside, packed) if inside != "." else write_fashion(tmp_path / "data", packed)
    )
    spec = f"fashion-mnist:{tmp_path / 'data' / inside.split('/')[0]}"
    pool, test = open_pool(spec), open_test(spec)
    assert torch.equal(pool.images(torch.arange(20))[:, 0], torch.from_numpy(images) / 255)
    assert torch.equal(test.images(torch.arange(10))[:, 0], torch.from_numpy(images[10:]) / 255)
    assert pool.labels.tolist() == [*range(10), *range(10)]
    assert (pool.info.channels, pool.info.size, pool.info.flip, pool.info.crop_padding) == (1, 28, True, 2)
    assert open_pool(spec, image_size=14).images(torch.tensor([0])).shape == (1, 1, 14, 14)


def test_fashion_mnist_is_looked_for_where_debian_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    with pytest.raises(
        LbgnasError,
        match=r"was not found in .*debian; `apt install dataset-fashion-mnist`.*fashion-mnist:PATH",
    ):
        open_pool("fashion-mnist")
    write_fashion(tmp_path / "debian", packed=True)
    assert len(open_pool("fashion-mnist")) == 20


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            IMAGES,
            idx(np.zeros((3, 28, 28), np.uint8))[:-1],
            "holds 2367 bytes, its header promises 2368; it may be cut short",
        ),
        (IMAGES, idx(np.zeros((3, 28, 28), np.uint8)) + b"x", "holds 2369 bytes, its header promises 2368"),
        (IMAGES, b"\0\0\x08\x03\0\0", "holds 6 bytes"),
        (IMAGES, idx(np.zeros(3, np.uint8)), "begins with 00000801 instead of 00000803"),
        (IMAGES, b"", "begins with nothing instead of 00000803"),
        (IMAGES, idx(np.zeros((3, 28, 27), np.uint8)), "images of the shape 3x28x27, it must be Nx28x28"),
        (IMAGES, idx(np.zeros((0, 28, 28), np.uint8)), "images of the shape 0x28x28"),
        (LABELS, idx(np.zeros(4, np.uint8)), "holds 4 labels for 20 images"),
        (LABELS, idx(np.full(20, 10, np.uint8)), "holds the label 10, allowed are 0 to 9"),
        (
            LABELS + ".gz",
            gzip.compress(idx(np.zeros(20, np.uint8)), mtime=0)[:-9],
            "cannot be read, it may be cut short",
        ),
        (LABELS + ".gz", b"text", "cannot be read, it may be cut short"),
        (
            LABELS + ".gz",
            gzip.compress(b"abc" * 100, mtime=0)[:12] + b"\xff" * 30,
            "cannot be read, it may be cut short",
        ),
    ],
)
def test_broken_idx_files_are_named(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    write_fashion(tmp_path / "data", packed=False)
    (tmp_path / "data" / name).write_bytes(content)
    with pytest.raises(LbgnasError, match=f"{name}: .*{sentence}"):
        open_pool(f"fashion-mnist:{tmp_path / 'data'}")


# CIFAR


def cifar_rows(count: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, 3072), np.uint8)


def python2_pickle(data: np.ndarray, labels: list[int], label_key: str) -> bytes:
    """Write what Python 2 wrote: protocol 2, with byte strings for keys and for the array's memory."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    kind = (
        b"cnumpy\ndtype\n("
        + text(b"u1")
        + number(0)
        + number(1)
        + b"tR("
        + number(3)
        + text(b"|")
        + b"NNN"
        + number(-1)
        + number(-1)
        + number(0)
        + b"tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"tR("
    array += (
        number(1)
        + number(data.shape[0])
        + number(data.shape[1])
        + b"\x86"
        + kind
        + b"\x89"
        + text(data.tobytes())
        + b"tb"
    )
    numbers = b"](" + b"".join(number(label) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(label_key.encode()) + numbers + b"u."


def test_the_python2_writer_writes_what_pickle_reads() -> None:
    data = cifar_rows(2)
    content = pickle.loads(python2_pickle(data, [3, 1], "labels"), encoding="bytes")
    assert np.array_equal(content[b"data"], data)
    assert content[b"labels"] == [3, 1]


def written(protocol: int, data: np.ndarray, labels: list[int], key: str) -> bytes:
    return (
        python2_pickle(data, labels, key)
        if protocol == 0
        else pickle.dumps({"data": data, key: labels, "x": b"1"}, protocol)
    )


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize("columns_first", [False, True])
def test_cifar10_loads(tmp_path: Path, protocol: int, columns_first: bool) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rows = cifar_rows(12)
    if columns_first and protocol:
        rows = np.asfortranarray(rows)
    for number in range(5):
        part = rows[2 * number : 2 * number + 2]
        part = np.asfortranarray(part) if columns_first and protocol else part
        (folder / f"data_batch_{number + 1}").write_bytes(written(protocol, part, [number, 9], "labels"))
    (folder / "test_batch").write_bytes(written(protocol, rows[10:], [7, 8], "labels"))
    for path in (tmp_path, folder):
        pool, test = open_pool(f"cifar10:{path}"), open_test(f"cifar10:{path}")
        expected = torch.from_numpy(np.ascontiguousarray(rows)).reshape(12, 3, 32, 32) / 255
        assert torch.equal(pool.images(torch.arange(10)), expected[:10])
        assert torch.equal(test.images(torch.arange(2)), expected[10:])
        assert pool.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
        assert test.labels.tolist() == [7, 8]
    assert pool.info.class_names[3] == "cat"
    assert (pool.info.crop_padding, pool.info.flip) == (4, True)


def test_cifar100_loads(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    (folder / "train").write_bytes(python2_pickle(cifar_rows(3), [0, 99, 50], "fine_labels"))
    (folder / "test").write_bytes(python2_pickle(cifar_rows(1), [8], "fine_labels"))
    pool = open_pool(f"cifar100:{tmp_path}")
    assert pool.labels.tolist() == [0, 99, 50]
    assert len(set(pool.info.class_names)) == 100
    assert [pool.info.class_names[k] for k in (0, 8, 99)] == ["apple", "bicycle", "worm"]
    assert open_test(f"cifar100:{tmp_path}").labels.tolist() == [8]


def cifar100_with(folder: Path, content: bytes) -> str:
    (folder / "train").write_bytes(content)
    return f"cifar100:{folder}"


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "owned")


class Harmless:
    pass


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_that_name_anything_else_are_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "owned"
    content = pickle.dumps({"data": Evil(target), "fine_labels": [1]}, protocol)
    with pytest.raises(LbgnasError, match=r"train: this file asks for .*; only numbers, text, lists, dicts and arrays"):
        open_pool(cifar100_with(tmp_path, content))
    assert not target.exists()
    pickle.loads(content)
    assert target.read_text() == "owned"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (pickle.dumps(Harmless()), "asks for .*Harmless"),
        (b"cbuiltins\neval\n(V1\ntR.", "asks for builtins.eval"),
        (b"cnumpy\nload\n(V/etc/passwd\ntR.", "asks for numpy.load"),
        (pickle.dumps({"data": np.array([None]), "fine_labels": [1]}), "arrays of 'O8' are not allowed"),
        (python2_pickle(cifar_rows(2), [1, 2], "fine_labels")[:-200], "broken or cut short"),
        (python2_pickle(cifar_rows(2), [1, 2], "fine_labels")[:1000], "broken or cut short"),
        (b"", "broken or cut short"),
        (b"<html>not found</html>", "broken or cut short"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "broken or cut short"),
        (
            pickle.dumps([1, 2]),
            "this is not a cifar100 file; it must hold 'data', rows of 3072 bytes, and 'fine_labels'",
        ),
        (pickle.dumps({"data": cifar_rows(2)}), "this is not a cifar100 file"),
        (pickle.dumps({"data": cifar_rows(2), "fine_labels": [1]}), "this is not a cifar100 file"),
        (pickle.dumps({"data": cifar_rows(2), "fine_labels": [1, 100]}), "as many numbers from 0 to 99"),
        (pickle.dumps({"data": cifar_rows(2)[:, :-1], "fine_labels": [1, 2]}), "this is not a cifar100 file"),
        (
            pickle.dumps({"data": cifar_rows(2).astype(float), "fine_labels": [1, 2]}),
            "this is not a cifar100 file",
        ),
        (pickle.dumps({"data": cifar_rows(0), "fine_labels": []}), "this is not a cifar100 file"),
    ],
)
def test_broken_cifar_files_are_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    with pytest.raises(LbgnasError, match=f"train: .*{sentence}"):
        open_pool(cifar100_with(tmp_path, content))


def test_missing_cifar_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        LbgnasError,
        match=r"data_batch_1 was found neither in .*cifar-10-batches-py nor in .*; give cifar10:PATH",
    ):
        open_pool(f"cifar10:{tmp_path}")
    (tmp_path / "data_batch_1").write_bytes(python2_pickle(cifar_rows(1), [1], "labels"))
    with pytest.raises(LbgnasError, match=r"data_batch_2: cannot be read \(No such file"):
        open_pool(f"cifar10:{tmp_path}")


# Folders


def write_images(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(RNG.integers(0, 256, (6, 6, 3), np.uint8)).save(folder / f"{number}.png")


def test_folder_with_train_and_test(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("test", 2)):
        for name in ("cat", "dog"):
            write_images(tmp_path / part / name, count)
    pool, test = open_pool(f"folder:{tmp_path}"), open_test(f"folder:{tmp_path}", image_size=6)
    assert pool.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert test.labels.tolist() == [0, 0, 1, 1]
    assert pool.images(torch.tensor([0])).shape == (1, 3, 32, 32)
    expected = np.array(Image.open(tmp_path / "test" / "dog" / "1.png")).transpose(2, 0, 1)
    assert torch.equal(test.images(torch.tensor([3]))[0], torch.from_numpy(expected) / 255)
    assert pool.info.mean == pool.info.std == (0.5, 0.5, 0.5)
    assert pool.info.flip


def test_folder_without_test_is_divided_always_alike(tmp_path: Path) -> None:
    for name, count in (("cat", 10), ("dog", 20)):
        write_images(tmp_path / name, count)
    spec = f"folder:{tmp_path}"
    pool, test = open_pool(spec, image_size=6), open_test(spec, image_size=6)
    assert torch.bincount(pool.labels).tolist() == [8, 16]
    assert torch.bincount(test.labels).tolist() == [2, 4]
    every = {image.numpy().tobytes() for data in (pool, test) for image in data.images(torch.arange(len(data)))}
    assert len(every) == 30
    assert open_pool(spec, image_size=6).fingerprint() == pool.fingerprint()
    assert "same 20 %" in pool.info.note
    assert torch.bincount(open_pool(spec, limit=6).labels).tolist() == [2, 4]


def test_bad_folders_are_named(tmp_path: Path) -> None:
    spec = f"folder:{tmp_path / 'x'}"
    with pytest.raises(LbgnasError, match="x: there is no such folder"):
        open_pool(spec)
    write_images(tmp_path / "x" / "a", 1)
    with pytest.raises(LbgnasError, match="x: 1 class folders were found, at least 2 are needed"):
        open_pool(spec)
    write_images(tmp_path / "x" / "b", 0)
    with pytest.raises(LbgnasError, match="b: this class has no image"):
        open_pool(spec)
    write_images(tmp_path / "x" / "train" / "a", 1)
    with pytest.raises(LbgnasError, match=r"test: this folder is missing beside .*train"):
        open_pool(spec)
    write_images(tmp_path / "x" / "train" / "b", 1)
    write_images(tmp_path / "x" / "test" / "a", 1)
    write_images(tmp_path / "x" / "test" / "c", 1)
    with pytest.raises(LbgnasError, match="the class 'b' is in only one of train and test"):
        open_test(spec)
