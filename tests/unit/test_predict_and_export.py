"""A trained run put to use: a folder of images, torch.export, ONNX."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lbgnas.data.image_data import DataInfo
from lbgnas.engine.export import TOLERANCE, _largest_difference, export
from lbgnas.engine.grouped_model import GroupedModel
from lbgnas.engine.predict import predict_folder, to_csv
from lbgnas.errors import LbgnasError
from lbgnas.networks.gates import make_gate
from lbgnas.networks.residual import ResNet
from tests import layouts


def model(channels: int = 3, trained=(True, True), experts=None) -> GroupedModel:
    torch.manual_seed(0)
    info = DataInfo("x", 3, ("a", "b", "c"), channels, 8, (0.4,) * channels, (0.3,) * channels)
    experts = experts or [ResNet((1, 1), 4, channels, 3, 8) for _ in range(2)]
    return GroupedModel(make_gate("linear", channels, 2, 8), experts, info, trained).eval()


def linear(count: int = 2) -> list[nn.Module]:
    return [nn.Sequential(nn.Flatten(), nn.Linear(192, 3)) for _ in range(count)]


def test_both_ways_to_answer_agree_and_use_both_experts():
    images, net = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1)), model()
    every, own = net(images), net.predict(images)
    assert set(own.group.tolist()) == {0, 1}
    assert torch.equal(every.group, own.group)
    assert torch.allclose(every.probabilities, own.probabilities, atol=1e-6)
    assert torch.equal(every.confidence, own.confidence)
    x = (images - 0.4) / 0.3
    for n in range(40):
        expert = net.experts[int(net.gate(x[n : n + 1]).argmax())]
        assert torch.allclose(expert(x[n : n + 1]).softmax(1)[0], own.probabilities[n], atol=1e-5)


def test_an_expert_that_was_not_trained_is_never_asked():
    images = torch.rand(40, 3, 8, 8)
    assert model(trained=(True, False)).predict(images).group.tolist() == [0] * 40
    assert model(trained=(False, True))(images).group.tolist() == [1] * 40


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_is_answered_in_order(tmp_path: Path, channels: int):
    for n, name in enumerate(["b/2.png", "a.png", "b/c/1.jpg", ".hidden/x.png"]):
        layouts.image(tmp_path / name, n, (8, 8))
    (tmp_path / "notes.txt").write_text("no image")
    net = model(channels)
    answers, skipped = predict_folder(net, tmp_path, batch_size=2)
    assert [answer.file for answer in answers] == ["a.png", "b/2.png", "b/c/1.jpg"]
    assert skipped == ()
    rows = list(csv.DictReader(to_csv(answers).splitlines()))
    assert [row["class"] for row in rows] == [answer.label for answer in answers]
    pixels = np.array(Image.open(tmp_path / "a.png")).transpose(2, 0, 1)
    image = torch.from_numpy(pixels)[None].float() / 255
    if channels == 1:
        image = (image * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    wanted = net.predict(image)
    assert answers[0].label == "abc"[int(wanted.probabilities.argmax())]
    assert answers[0].probability == pytest.approx(float(wanted.probabilities.max()), abs=1e-5)
    assert answers[0].expert == int(wanted.group)


def test_bad_folders_and_images(tmp_path: Path):
    with pytest.raises(LbgnasError, match="there is no such folder"):
        predict_folder(model(), tmp_path / "x")
    with pytest.raises(LbgnasError, match="holds no image"):
        predict_folder(model(), tmp_path)
    layouts.image(tmp_path / "fine.png")
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(LbgnasError, match=r"bad\.png: this image cannot be read"):
        predict_folder(model(), tmp_path)
    answers, skipped = predict_folder(model(), tmp_path, skip_bad=True)
    assert ([answer.file for answer in answers], skipped) == (["fine.png"], ("bad.png",))


def test_torch_export_with_any_batch_size(tmp_path: Path):
    net = model()
    (done,) = export(net, tmp_path, ["pt2"])
    assert done.difference < 1e-6
    loaded = torch.export.load(str(done.path)).module()
    for count in (1, 5, 33):
        images = torch.rand(count, 3, 8, 8)
        for found, wanted in zip(loaded(images), net(images), strict=True):
            assert torch.allclose(found.double(), wanted.double(), atol=1e-6)


def test_onnx_with_any_batch_size(tmp_path: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net = model(experts=linear())
    (done,) = export(net, tmp_path, ["onnx"])
    assert done.difference < TOLERANCE
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["probabilities", "group", "confidence"]
    images = torch.rand(33, 3, 8, 8)
    found = session.run(None, {"images": images.numpy()})
    assert torch.allclose(torch.from_numpy(found[0]), net(images).probabilities, atol=1e-5)
    assert found[1].tolist() == net(images).group.tolist()


def test_a_file_that_answers_otherwise_is_refused(tmp_path: Path):
    net, other = model(experts=linear()), model(experts=linear(3)[1:])
    with pytest.raises(LbgnasError, match="answers otherwise than the model"):
        _largest_difference(net, lambda images: list(other(images)), [torch.rand(4, 3, 8, 8)], tmp_path / "x")
    with pytest.raises(LbgnasError, match="--formats: unknown format 'onx'"):
        export(net, tmp_path, ["onx"])
