"""What must hold in each of several processes: `python -m tests.processes FOLDER CHECK ...`, started by `together`."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lbgnas.config import EvaluationSettings, SearchSettings
from lbgnas.engine.evaluate import Evaluation
from lbgnas.engine.reporting import Reporter
from lbgnas.engine.search import Search
from lbgnas.errors import LbgnasError
from lbgnas.files import write_text
from lbgnas.grouping.adaptation import Adaptation, find_distance
from lbgnas.grouping.assignments import RowOptimizer
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.hypergradient import Exact, FiniteDifference, FirstOrder
from lbgnas.grouping.learner import Learner, NonFinite
from lbgnas.grouping.levels import Levels
from lbgnas.grouping.sgd import Sgd
from lbgnas.grouping.shared import gathered_state
from lbgnas.ranks import ALONE, started
from tests.small import ROOT, assert_same, metrics
from tests.toys import ToyExpert, toy_batch, toy_gate

# Steps in these spaces take a tenth of those in the published ones.
SPACE = "name: tiny\nnodes: 1\nconcat: [2]\nreductions: [1/3, 2/3]\n"
OPERATIONS = "operations: [none, skip_connect, max_pool_3x3, dil_conv_3x3]\n"
SMALL = {
    "limit": 40,
    "batch_size": 10,
    "image_size": 8,
    "network": {"cells": 3, "channels": 8},
    "architecture": {"warmup": 0.2},
    "gate": {"scouts": 0},
}


def together(folder: Path, *checks: str, count: int = 2) -> list[tuple[str, str]]:
    """Run checks in so many processes, as torchrun starts them; return what each printed, and its errors."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common["OMP_NUM_THREADS"] = 1
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.processes", str(folder), *checks],
            cwd=ROOT,
            env={**os.environ, **{name: str(value) for name, value in {**common, "RANK": k, "LOCAL_RANK": k}.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(count)
    ]
    return [process.communicate(timeout=280) for process in processes]


def assert_close(left, right, path="state"):
    """As `assert_same`, but numbers may differ by 1e-6."""
    if isinstance(left, torch.Tensor) and left.is_floating_point():
        assert left.dtype == right.dtype, path
        assert (left - right).abs().max() < 1e-6, path
    elif isinstance(left, float):
        assert abs(left - right) < 1e-6, path
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), path
        for key in left:
            assert_close(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), path
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_close(a, b, f"{path}[{index}]")
    else:
        assert_same(left, right, path)


def space(folder: Path, base: str) -> str:
    path = folder / f"{base}.yaml"
    text = SPACE + OPERATIONS + ("partial_channels: 4\nedge_normalisation: true\n" if base == "pcdarts" else "")
    write_text(path, text)  # whole, for the other process may be reading it
    return str(path)


def twenty_steps(ranks, folder: Path, settings: dict):
    """Return state, architectures and losses after 20 steps in float64."""
    folder.mkdir(parents=True, exist_ok=True)
    search = Search(SearchSettings(**SMALL, **settings, epochs=10), folder, ranks=ranks)
    sums = []
    while search.epoch < 10:
        levels = search.plan.levels(search.epoch)
        search.plan.prepare(search.learner.experts, search.epoch)
        for pair in search.batches(search.epoch, 0):
            search.take_step(*(batch._replace(images=batch.images.double()) for batch in pair), levels)
        sums.append(search.sums)
        search.epoch, search.step_in_epoch, search.sums = search.epoch + 1, 0, {}
    search.gather()
    return search.learner.state_dict(), search.architectures(), sums


def supernets(ranks, folder: Path) -> None:
    """Twenty steps of search end in the same weights, C and architectures."""
    torch.set_default_dtype(torch.float64)
    cases = [
        {"base": "darts", "grouping": "lbg"},
        {"base": "pcdarts", "grouping": "dalbg", "expert_balance": "class"},
    ]
    cases = [{**case, "space": space(folder, case["base"])} for case in cases]
    mine = {
        index: twenty_steps(ALONE, folder / f"alone{index}", case)
        for index, case in enumerate(cases)
        if ranks.owns(index)
    }
    alone = {index: found for part in ranks.gathered(mine) for index, found in part.items()}
    for index, case in enumerate(cases):
        found = twenty_steps(ranks, folder / f"shared{index}", case)
        assert alone[index][1] == found[1], case
        assert_close(alone[index], found)
    torch.set_default_dtype(torch.float32)


def toy_learner(ranks, groups: int) -> Learner:
    torch.manual_seed(1)
    experts = Experts([ToyExpert() for _ in range(groups)], ("alphas",), "head", ranks)
    logits = torch.randn(30, groups) / 10
    return Learner(experts, toy_gate(groups), logits, RowOptimizer("adam", 0.1), 0.05, balance_classes=3)


def toys(ranks, folder: Path) -> None:
    """Three experts in two processes: every hypergradient, a price on A, groups that are empty, momentum, clip."""
    torch.set_default_dtype(torch.float64)
    sgd = Sgd(0.3, 0.9, 1e-3, 1.0)
    mmd = Adaptation(find_distance("mmd"), 0.5)
    for case in (
        {"hypergradient": Exact(), "adaptation": mmd},
        {"hypergradient": Exact("reverse"), "cost": lambda own: own["alphas"].softmax(0)[0]},
        {"hypergradient": FiniteDifference(), "mixture": True},
        {"hypergradient": FirstOrder(), "architecture": False},
        {"hypergradient": Exact(), "assignments": False, "architecture": False},
    ):
        levels, empty = Levels(gate=sgd, experts=sgd, **case), 0
        learners = [toy_learner(each, 3) for each in (ALONE, ranks)]
        for step in range(20):
            train, validation = toy_batch(step, 6), toy_batch(100 + step, 6)
            alone, shared = (dataclasses.asdict(learner.step(train, validation, levels)) for learner in learners)
            assert_close(alone, shared, str(case))
            empty += not all(alone["train_groups"])
        assert empty, "no expert was without samples"
        assert_close(learners[0].state_dict(), gathered_state(ranks, learners[1].state_dict()), str(case))
    torch.set_default_dtype(torch.float32)


class Deaf(ToyExpert):
    """Its architecture gets no gradient."""

    def forward(self, x):
        return super().forward(x) if self.alphas is None else self.head(x.mean((2, 3))[:, [0, 1, 0, 1]])


def one_fails(ranks, error: Exception) -> None:
    with ranks.agreed():
        if ranks.rank == 1:
            raise error
        ranks.sum([torch.ones(3)])


def errors(ranks, folder: Path) -> None:
    """What one process raises all raise, wherever they are, and no step is left half taken."""
    for kind in (NonFinite, LbgnasError):
        with pytest.raises(kind, match="of the second"):
            one_fails(ranks, kind("of the second"))
    with pytest.raises(KeyError), ranks.agreed(KeyError):
        raise KeyError(ranks.rank)
    assert ranks.signal(15 if ranks.rank else None) == 15
    assert ranks.signal(None) is None
    counts, halves = ranks.sum([torch.tensor(3), torch.tensor([0.5, 1.0])])
    assert (counts.dtype, counts.item(), halves.tolist()) == (torch.int64, 6, [1.0, 2.0])
    assert ranks.sum([ranks.once(torch.tensor([2.0]))])[0].tolist() == [2.0]
    assert ranks.of_first(lambda: ranks.rank) == 0
    with pytest.raises(LbgnasError, match=r"2 processes for 1 expert, .* --nproc-per-node 1"):
        ranks.require(1)

    learner = toy_learner(ranks, 2)
    learner.experts.modules[1] = Deaf()
    with torch.no_grad():
        learner.gate[-1].weight.zero_()
        learner.gate[-1].bias.copy_(torch.tensor([0.0, 0.01]))  # all to the deaf one
    before = [value.clone() for module in learner.experts.modules for value in module.state_dict().values()]
    levels = Levels(gate=Sgd(0.0), experts=Sgd(0.1))
    batch = tuple(part.float() if part.is_floating_point() else part for part in toy_batch(0, 8))
    with pytest.raises(LbgnasError, match=r"experts\[1\]\.alphas got no gradient"):
        learner.step(batch, batch, levels)
    after = [value for module in learner.experts.modules for value in module.state_dict().values()]
    assert all(map(torch.equal, before, after))


def stages(ranks, folder: Path) -> None:
    """A whole search of P-DARTS with scouts, three experts in two processes: the same records and genotypes."""
    settings = {
        **SMALL,
        "base": "pdarts",
        "grouping": "lbg",
        "num_experts": 3,
        "epochs": 1,
        "space": space(folder, "pdarts"),
        "gate": {"scouts": 3, "scout_epochs": 1},
        "stages": {"added_cells": (0, 0, 1), "skip_dropout": (0.2, 0.4, 0.7)},
    }
    place = folder / f"stages{ranks.rank}"
    place.mkdir()
    alone = Search(SearchSettings(**settings), place)
    alone.run()
    place = folder / "stages"
    place.mkdir(exist_ok=True)
    shared = Search(SearchSettings(**settings), place, ranks=ranks)
    result = shared.run()
    assert result.cells == alone.architectures()
    assert abs(result.validation_accuracy - alone.validated()[0]) < 1e-9
    assert_close(alone.learner.state_dict(), shared.learner.state_dict())
    assert_close(metrics(alone.folder), metrics(place))


def poisoned(ranks, folder: Path) -> None:
    """A level that is not finite ends the search in all processes, with a checkpoint of the state before."""
    place = folder / "poisoned"
    place.mkdir(exist_ok=True)
    settings = SearchSettings(**SMALL, base="darts", grouping="lbg", epochs=2, space=space(folder, "darts"))
    search = Search(settings, place, ranks=ranks)
    step, calls = search.learner.step, []

    def poison(train, validation, levels):
        calls.append(1)
        if len(calls) == 2:
            train = train._replace(images=train.images * float("nan"))
        return step(train, validation, levels)

    search.learner.step = poison
    with pytest.raises(NonFinite, match=r"epoch 1, step 2: .* \(level [12]\)"):
        search.run()
    ranks.signal(None)  # the first one has written
    again = Search(settings, place, resume=True, ranks=ranks)
    assert (again.epoch, again.step_in_epoch) == (0, 1)
    assert all(value.isfinite().all() for own in again.learner.state_dict()["experts"] for value in own.values())


class Told(Reporter):
    """Counts the steps that a bar would show."""

    def __init__(self) -> None:
        self.total = self.steps = 0

    def begin(self, title, total_steps, done_steps) -> None:
        self.total = total_steps

    def step(self, values) -> None:
        self.steps += 1


def evaluations(ranks, folder: Path) -> None:
    """An ensemble of three in two processes, one of them without work in the end."""
    settings = EvaluationSettings(
        genotype="PC_DARTS_cifar", ensemble=3, limit=40, epochs=4, batch_size=16, layers=3, channels=4, cutout=2
    )
    place = folder / f"evaluation{ranks.rank}"
    place.mkdir()
    alone = Evaluation(settings, place)
    measures = alone.run()
    place = folder / "evaluation"
    place.mkdir(exist_ok=True)
    told = Told()
    shared = Evaluation(settings, place, report=told, ranks=ranks)
    assert_close(measures.to_dict(), shared.run().to_dict())
    for left, right in zip(alone.networks, shared.networks, strict=True):
        assert_close(left.state_dict(), right.state_dict())
    records = sorted(metrics(place), key=lambda record: record["epoch"])
    assert_close(metrics(alone.folder), records)
    assert shared.epochs_alone > 1
    assert told.steps == told.total == sum(alone.steps(index) for index in range(3)) * 4


if __name__ == "__main__":
    torch.set_num_threads(1)
    with started(torch.device("cpu")) as ranks:
        for check in sys.argv[2:]:
            globals()[check](ranks, Path(sys.argv[1]))
            print(f"{check} held", flush=True)
