"""What is timed: each builder returns a function that takes one step, with new samples every time."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reference.network import ReferenceNetwork
from benchmarks.reference.stacked import ReferenceStacked
from benchmarks.reference.steps import ReferenceSearch
from lbgnas.batch_statistics import BatchStatistics
from lbgnas.genotype import published
from lbgnas.grouping.adaptation import Adaptation, find_distance
from lbgnas.grouping.assignments import initial_assignments
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.hypergradient import Exact, FiniteDifference, FirstOrder, Hypergradient
from lbgnas.grouping.learner import Learner
from lbgnas.grouping.levels import Levels
from lbgnas.grouping.sgd import Sgd
from lbgnas.networks.counting import count_parameters
from lbgnas.networks.gate import SmallGate
from lbgnas.networks.sizing import expert_size
from lbgnas.networks.stacked import StackedNetwork
from lbgnas.networks.supernet import Supernet
from lbgnas.space import load_space

Run = Callable[[], object]
Pass = Callable[[Tensor], Tensor]
SAMPLES = 4096
CELLS, CHANNELS, SIZE = 8, 16, 32
BATCH = 16
"""Of the subjects that name no other; a quick look sets it lower."""


class EvenGate(SmallGate):
    """The search's gate, made to send random images to all experts alike: untrained it would send all to one."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        group = images[:, 0, 0, 0].mul(1000).long() % logits.shape[1]
        return logits + 3.0 * F.one_hot(group, logits.shape[1])


def supernet(space: str = "darts", cells: int = CELLS, channels: int = CHANNELS) -> Supernet:
    torch.manual_seed(0)
    return Supernet(load_space(space), cells, channels, 10)


def in_bfloat16(net: Supernet) -> Pass:
    """Return the pass that a search of precision bfloat16 makes."""
    experts = Experts([net], tuple(net.architecture_parameters()), compute=torch.bfloat16)
    policy = BatchStatistics(update=False)
    weights, architecture = experts.weights(0), experts.architecture(0)
    for value in (*weights.values(), *architecture.values()):
        value.requires_grad_()
    return lambda images: experts.call(0, weights, architecture, images, policy)[0]


def _batches(batch: int, size: int, ours: bool):
    """Yield endless pairs of a training and a validation batch: images, labels, ids."""
    form = torch.channels_last if ours else torch.contiguous_format
    for seed in itertools.count():
        draw = torch.Generator().manual_seed(seed)

        def samples(draw: torch.Generator = draw) -> tuple[Tensor, Tensor, Tensor]:
            images = torch.randn(batch, 3, size, size, generator=draw).contiguous(memory_format=form)
            labels = torch.randint(10, (batch,), generator=draw)
            return images, labels, torch.randperm(SAMPLES, generator=draw)[:batch]

        yield samples(), samples()


def _pass(net: nn.Module, ours: bool) -> Run:
    source = _batches(BATCH, SIZE, ours)

    def run() -> None:
        (images, labels, _), _ = next(source)
        net.zero_grad()
        F.cross_entropy(net(images), labels).backward()

    return run


def ours_pass() -> Run:
    return _pass(supernet().to(memory_format=torch.channels_last), True)


def ours_pass_low() -> Run:
    net = supernet().to(memory_format=torch.channels_last)
    net.recompute = True
    return _pass(net, True)


def reference_pass() -> Run:
    return _pass(ReferenceNetwork(supernet()), False)


def _learner(
    experts: int,
    hypergradient: Hypergradient,
    space: str = "darts",
    cells: int = CELLS,
    channels: int = CHANNELS,
    size: int = SIZE,
    batch: int | None = None,
    adaptation: bool = False,
    grouped: bool | None = None,
) -> Run:
    modules = [supernet(space, cells, channels).to(memory_format=torch.channels_last) for _ in range(experts)]
    grouped = experts > 1 if grouped is None else grouped
    gate = EvenGate(3, experts) if grouped else None
    logits = initial_assignments(SAMPLES, experts, 0) if grouped else None
    learner = Learner(Experts(modules, tuple(modules[0].architecture_parameters()), "classifier"), gate, logits)
    levels = Levels(
        gate=Sgd(0.025, 0.9, 3e-4),
        experts=Sgd(0.025, 0.9, 3e-4, 5.0),
        hypergradient=hypergradient,
        adaptation=Adaptation(find_distance("mmd"), 0.1) if adaptation else None,
        mutual_information=1.0 if experts > 1 else 0.0,
    )
    source = _batches(batch or BATCH, size, True)
    # One network takes its steps in the same order as several: the step on S' is kept, no pass is taken twice.
    return lambda: learner.step(*next(source), levels)


def ours_second_order() -> Run:
    return _learner(1, Exact())


def ours_first_order() -> Run:
    return _learner(1, FirstOrder())


def lbg() -> Run:
    return _learner(2, Exact(), cells=5)


def lbg_finite_difference() -> Run:
    return _learner(2, FiniteDifference(), cells=5)


def dalbg() -> Run:
    return _learner(2, Exact(), cells=5, adaptation=True)


def lbg_pcdarts() -> Run:
    return _learner(2, Exact(), space="pcdarts", cells=5)


def _equal_parameters(experts: int) -> Run:
    def count(cells: int, channels: int) -> int:
        with torch.device("meta"):
            return count_parameters(Supernet(load_space("darts"), cells, channels, 10))

    cells, channels = expert_size(count, CELLS, CHANNELS, experts)
    return _learner(experts, Exact(), cells=cells, channels=channels, batch=4 * BATCH, grouped=True)


def one_expert() -> Run:
    return _equal_parameters(1)


def eight_experts() -> Run:
    return _equal_parameters(8)


def quick() -> Run:
    return _learner(2, Exact(), cells=3, channels=8, size=8, batch=128)


def quick_dalbg() -> Run:
    return _learner(2, Exact(), cells=3, channels=8, size=8, batch=128, adaptation=True)


def _reference_step(net: Supernet, second_order: bool, size: int = SIZE, batch: int | None = None) -> Run:
    search = ReferenceSearch(ReferenceNetwork(net), second_order=second_order)
    source = _batches(batch or BATCH, size, False)

    def run() -> None:
        train, validation = next(source)
        search.step(train[:2], validation[:2])

    return run


def reference_second_order() -> Run:
    return _reference_step(supernet(), True)


def reference_pcdarts() -> Run:
    return _reference_step(supernet("pcdarts"), False)


def reference_quick() -> Run:
    return _reference_step(supernet(cells=4, channels=8), True, 8, 128)


def nni_first_order() -> Run:
    from benchmarks.reference.nni_darts import nni_step

    return nni_step(CELLS, CHANNELS, lambda: _batches(BATCH, SIZE, False))


def _evaluation(net: nn.Module, ours: bool) -> Run:
    optimizer = torch.optim.SGD(net.parameters(), 0.025, momentum=0.9, weight_decay=3e-4)
    source = _batches(BATCH, SIZE, ours)

    def run() -> None:
        (images, labels, _), _ = next(source)
        optimizer.zero_grad()
        output = net(images)
        F.cross_entropy(output[0] if isinstance(output, tuple) else output, labels).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()

    return run


def stacked() -> StackedNetwork:
    torch.manual_seed(0)
    return StackedNetwork(published("DARTS_V2").experts[0], num_cells=20, channels=CHANNELS, num_classes=10)


def ours_evaluation() -> Run:
    return _evaluation(stacked(), True)


def compiled_evaluation() -> Run:
    return _evaluation(torch.compile(stacked()), True)


def reference_evaluation() -> Run:
    return _evaluation(ReferenceStacked(stacked()), False)
