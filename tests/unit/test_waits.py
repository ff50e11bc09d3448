"""A step on a GPU waits for it twice: where group sizes are looked at, and where the result is checked."""

from __future__ import annotations

import traceback
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import lbgnas
from lbgnas.config import SearchSettings, SupernetSettings
from lbgnas.engine.search import Search
from lbgnas.grouping import learner as learners
from lbgnas.grouping import objectives

PACKAGE = str(Path(lbgnas.__file__).parent)
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal"}


def place():
    """Return the line of the package under way."""
    frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(PACKAGE)]
    return f"{Path(frames[-1].filename).stem}.{frames[-1].name}" if frames else "outside"


class Looks(TorchDispatchMode):
    """Notes the place of every operation whose result or size depends on values, for which the host would wait."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            index is not None and index.dtype == torch.bool
            for part in args[1:2]
            if isinstance(part, (list, tuple))
            for index in part
        )
        repeats = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in WAITING or by_mask or repeats:
            self.found.append(place())
        return function(*args, **(kwargs or {}))


@contextmanager
def looks(monkeypatch):
    """Collect the places that look at values, `tolist` included, which asks for no operation on a CPU."""
    with Looks() as mode:
        plain = torch.Tensor.tolist

        def tolist(tensor):
            mode.found.append(place())
            return plain(tensor)

        monkeypatch.setattr(torch.Tensor, "tolist", tolist)
        yield mode.found


def test_looks_are_seen(monkeypatch):
    values = torch.tensor([1.0, 0.0])
    with looks(monkeypatch) as found:
        values.sum().item()
        bool(values.any())
        values[values > 0]
        values.nonzero()
        values.tolist()
    assert len(found) == 5


@pytest.mark.parametrize("base", ["darts", "pcdarts", "darts-"])
@pytest.mark.parametrize(("grouping", "third"), [("lbg", "routed"), ("dalbg", "routed"), ("lbg", "mixture")])
def test_a_step_looks_twice(tmp_path, monkeypatch, base, grouping, third):
    # Ids and labels are looked at on a CPU only; Adam's count of steps stays there.
    monkeypatch.setattr(learners, "check_ids", lambda ids, rows: None)
    monkeypatch.setattr(objectives, "check_labels", lambda labels, classes: None)
    settings = SearchSettings(
        base=base,
        grouping=grouping,
        third_level=third,
        limit=40,
        batch_size=10,
        epochs=1,
        architecture={"warmup": 0.0},
        network=SupernetSettings(cells=3, channels=8),
    )
    search = Search(settings, tmp_path)
    levels = search.plan.levels(0)
    assert levels.architecture
    stream = search.batches(0, 0)
    search.learner.step(*next(stream), levels)
    pair = next(stream)
    with looks(monkeypatch) as found:
        search.learner.step(*pair, levels)
    inside = [where for where in found if where != "learner._move_architecture"]
    assert inside == ["stages.groups_of", "checks.require"]
