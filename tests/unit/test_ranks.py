from __future__ import annotations

import pytest

from lbgnas.cli import start_torch
from lbgnas.errors import LbgnasError
from lbgnas.ranks import ALONE, place
from tests.processes import together


@pytest.mark.parametrize("checks", [("errors", "toys", "stages", "poisoned"), ("supernets", "evaluations")])
def test_two_processes_give_what_one_gives(tmp_path, checks):
    for output, error in together(tmp_path, *checks):
        assert [f"{check} held" for check in checks] == output.splitlines(), error[-3000:]


def test_the_place_is_what_torchrun_says(monkeypatch):
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert place() == (0, 1, 0, 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert place() == (5, 8, 1, 4)


def test_only_search_and_evaluation_take_several(monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(LbgnasError, match="2 processes for what one does alone"):
        start_torch("cpu", None)
    assert start_torch("cpu", None, several=True).type == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    for device, sentence in (("cuda:0", "takes a GPU of its own"), ("auto", "2 processes .* has 1 GPUs")):
        with pytest.raises(LbgnasError, match=sentence):
            start_torch(device, None, several=True)


def test_one_process_alone_has_everything():
    assert all(ALONE.owns(index) for index in range(8))
    ALONE.require(1)
