"""What is not finite, and slopes that vanish: the step names the level and commits nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from lbgnas.errors import LbgnasError
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.hypergradient import FirstOrder
from lbgnas.grouping.learner import Learner, NonFinite, VanishedHypergradient
from lbgnas.grouping.sgd import Sgd
from tests.learners import LEVELS, WAYS, batches, everything, make, same
from tests.toys import ToyExpert, toy_gate

pytestmark = pytest.mark.usefixtures("float64")


def spoil_images(learner, train, validation):
    return (train[0] * float("nan"), *train[1:]), validation


def spoil_one_pixel(learner, train, validation):
    x = train[0].clone()
    x[3, 0, 2, 2] = float("inf")
    return (x, *train[1:]), validation


def spoil_validation(learner, train, validation):
    return train, (validation[0] * float("nan"), *validation[1:])


def spoil_experts(learner, train, validation):
    with torch.no_grad():
        for module in learner.experts.modules:
            module.head.weight.fill_(float("inf"))
    return train, validation


def spoil_gate(learner, train, validation):
    with torch.no_grad():
        learner.gate[-1].weight.fill_(float("inf"))
    return train, validation


SPOILT = [
    (spoil_images, "level 1"),
    (spoil_one_pixel, "level 1"),
    (spoil_gate, "level 1"),
    (spoil_experts, "level 2"),
    (spoil_validation, "level 3"),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("spoil", "level"), SPOILT)
def test_what_is_not_finite_names_its_level_and_commits_nothing(spoil, level, way):
    learner = make(2)
    levels = dataclasses.replace(LEVELS, hypergradient=WAYS[way])
    learner.step(*batches(0), levels)
    train, validation = spoil(learner, *batches(1))
    before = everything(learner, buffers=False)
    with pytest.raises(NonFinite, match=level):
        learner.step(train, validation, levels)
    assert same(before, everything(learner, buffers=False)) == []


@pytest.mark.parametrize("spoil", [spoil_images, spoil_experts, spoil_validation])
def test_a_bilevel_step_that_is_not_finite_commits_nothing(spoil):
    """The architecture moves before the weights' gradient is known."""
    learner = make(1, gate=False)
    levels = dataclasses.replace(LEVELS, hypergradient=FirstOrder())
    learner.bilevel_step(*batches(0), levels)
    train, validation = spoil(learner, *batches(1))
    before = everything(learner, buffers=False)
    with pytest.raises(NonFinite):
        learner.bilevel_step(train, validation, levels)
    assert same(before, everything(learner, buffers=False)) == []


def test_after_what_was_not_finite_the_next_step_is_as_if_nothing_had_been():
    troubled, smooth = make(2), make(2)
    for module in [m for learner in (troubled, smooth) for m in learner.experts.modules]:
        for norm in (module.norm, module.norm_2):
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    with pytest.raises(NonFinite):
        troubled.step(*spoil_images(troubled, *batches(7)), LEVELS)
    for learner in (troubled, smooth):
        learner.step(*batches(0), LEVELS)
    assert same(everything(troubled), everything(smooth)) == []


class Constant(nn.Module):
    """A gate whose answer does not depend on its weights in any way that could matter."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x.flatten(1)[:, :2] + 0 * self.weight


def test_a_gate_without_slope_is_a_fault():
    learner = make(2)
    learner.gate = Constant()
    before = everything(learner, buffers=False)
    with pytest.raises(VanishedHypergradient, match="of C is zero"):
        learner.step(*batches(0), LEVELS)
    assert same(before, everything(learner, buffers=False)) == []


class Detached(ToyExpert):
    def forward(self, x):
        return super().forward(x) + 0 * self.unused.sum()

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.ones(3))


def test_an_architecture_without_slope_is_a_fault():
    torch.manual_seed(0)
    experts = Experts([Detached(), Detached()], ["alphas", "unused"])
    learner = Learner(experts, toy_gate(2), torch.randn(20, 2))
    with pytest.raises(VanishedHypergradient, match=r"experts\[\d\]\.unused"):
        learner.step(*batches(0), LEVELS)


def test_an_architecture_that_the_loss_does_not_hold_is_a_fault():
    torch.manual_seed(0)
    modules = [ToyExpert(), ToyExpert()]
    for module in modules:
        module.register_parameter("forgotten", nn.Parameter(torch.ones(3)))
    learner = Learner(Experts(modules, ["alphas", "forgotten"]), toy_gate(2), torch.randn(20, 2))
    with pytest.raises(LbgnasError, match=r"experts\[\d\]\.forgotten"):
        learner.step(*batches(0), LEVELS)


def test_a_saturated_gate_is_no_fault():
    learner = make(2)
    with torch.no_grad():
        learner.gate[-1].weight.zero_()
        learner.gate[-1].bias.copy_(torch.tensor([2000.0, -2000.0]))
    losses = learner.step(*batches(0), LEVELS)
    assert losses.confidence == 1
    assert losses.train_groups == [14, 0]


@pytest.mark.parametrize(("spoil", "level"), SPOILT)
def test_what_is_not_finite_leaves_running_statistics(spoil, level):
    learner = make(2)
    learner.step(*batches(0), LEVELS)
    train, validation = spoil(learner, *batches(1))
    before = everything(learner)
    with pytest.raises(NonFinite, match=level):
        learner.step(train, validation, LEVELS)
    assert same(before, everything(learner)) == []


@pytest.mark.parametrize("spoil", [spoil_images, spoil_experts, spoil_validation])
def test_a_bilevel_step_that_is_not_finite_leaves_running_statistics(spoil):
    learner, smooth = make(1, gate=False), make(1, gate=False)
    for each in (learner, smooth):
        each.bilevel_step(*batches(0), LEVELS)
    weight = learner.experts.modules[0].head.weight.detach().clone()
    with pytest.raises(NonFinite):
        learner.bilevel_step(*spoil(learner, *batches(1)), LEVELS)
    with torch.no_grad():
        learner.experts.modules[0].head.weight.copy_(weight)
    assert same(everything(learner), everything(smooth)) == []
    for each in (learner, smooth):
        each.bilevel_step(*batches(2), LEVELS)
    assert same(everything(learner), everything(smooth)) == []


def test_a_bilevel_step_without_slope_is_a_fault():
    torch.manual_seed(0)
    learner = Learner(Experts([Detached()], ["alphas", "unused"]), None, None)
    before = everything(learner)
    with pytest.raises(VanishedHypergradient, match=r"experts\[0\]\.unused"):
        learner.bilevel_step(*batches(0), LEVELS)
    assert same(before, everything(learner)) == []


def test_a_gate_that_does_not_move_is_no_fault():
    learner = make(2)
    before = learner.assignment_logits.clone()
    learner.step(*batches(0), dataclasses.replace(LEVELS, gate=Sgd(0.0)))
    assert torch.equal(learner.assignment_logits, before)


def test_saturated_rows_of_z_are_no_fault():
    learner = make(2)
    learner.assignment_logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]]).repeat(10, 1)
    before = learner.assignment_logits.clone()
    assert learner.step(*batches(0), LEVELS).confidence < 1
    assert torch.equal(learner.assignment_logits, before)


class Single(ToyExpert):
    """An architecture with nothing to choose from."""

    def __init__(self):
        super().__init__()
        self.single = nn.Parameter(torch.randn(4, 1))

    def forward(self, x):
        return super().forward(x) * self.single.softmax(1).mean()


def test_one_candidate_is_no_fault():
    torch.manual_seed(0)
    gated = Learner(Experts([Single(), Single()], ["alphas", "single"]), toy_gate(2), torch.randn(20, 2))
    gated.step(*batches(0), LEVELS)
    Learner(Experts([Single()], ["alphas", "single"]), None, None).bilevel_step(*batches(0), LEVELS)
