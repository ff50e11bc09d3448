"""The learner: one expert, state and resume, batches, frozen levels, small groups, memory, balance."""

from __future__ import annotations

import copy
import dataclasses
import gc
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lbgnas.batch_statistics import BatchStatistics
from lbgnas.errors import LbgnasError
from lbgnas.grouping.adaptation import DISTANCES, Adaptation
from lbgnas.grouping.balance import class_weights, initial_counts, moved_counts
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.learner import Learner
from lbgnas.grouping.sgd import Sgd
from lbgnas.grouping.unrolled import Levels
from tests.learners import LEVELS, WAYS, batches, everything, linear_cnn, make, same
from tests.toys import ToyExpert, toy_batch, toy_gate

pytestmark = pytest.mark.usefixtures("float64")

# One expert


@pytest.mark.parametrize("way", WAYS)
def test_one_expert_with_a_gate_equals_one_without_bit_for_bit(way):
    levels = dataclasses.replace(LEVELS, hypergradient=WAYS[way])
    gated, alone = make(1), make(1, gate=False)
    alone.experts.modules[0].load_state_dict(gated.experts.modules[0].state_dict())
    logits = gated.assignment_logits.clone()
    for step in range(5):
        first, second = (learner.step(*batches(step), levels) for learner in (gated, alone))
        assert torch.equal(first.experts, second.experts)
        assert torch.equal(first.validation, second.validation)
        assert first.confidence == second.confidence == 1
    own, other = everything(gated), everything(alone)
    names = [name for name in other if name.startswith((".expert", ".architecture"))]
    assert len(names) > 10
    assert [name for name in names if not torch.equal(own[name], other[name])] == []
    assert torch.equal(gated.assignment_logits, logits), "one group is all there is to choose from"


def test_weight_zero_of_adaptation_equals_none_bit_for_bit():
    plain, zero = make(2), make(2)
    levels = dataclasses.replace(LEVELS, adaptation=Adaptation(DISTANCES["coral"], 0.0))
    for step in range(3):
        plain.step(*batches(step), LEVELS)
        zero.step(*batches(step), levels)
    assert same(everything(plain), everything(zero)) == []


# State


def state_through_a_file(learner):
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("gate", [True, False])
def test_resume_is_bit_equal(gate):
    groups = 2 if gate else 1
    straight = make(groups, gate)
    for step in range(3):
        straight.step(*batches(step), LEVELS)
    resumed = make(groups, gate, seed=9)
    resumed.load_state_dict(state_through_a_file(straight))
    assert same(everything(straight), everything(resumed)) == []
    for step in range(3, 6):
        first, second = (learner.step(*batches(step), LEVELS) for learner in (straight, resumed))
        assert torch.equal(first.validation, second.validation)
    assert same(everything(straight), everything(resumed)) == []


def test_resume_before_an_expert_saw_its_first_sample():
    """A state without momentum and without Adam's moments is a state as well."""
    straight = make(2)
    resumed = make(2, seed=9)
    resumed.load_state_dict(state_through_a_file(straight))
    for learner in (straight, resumed):
        learner.step(*batches(0), LEVELS)
    assert same(everything(straight), everything(resumed)) == []


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda state: state.pop("experts"), "experts"),
        (lambda state: state.pop("row_state"), "row_state"),
        (lambda state: state["experts"].pop(), "shorter"),
        (lambda state: state["experts"][0].pop("alphas"), "alphas"),
        (lambda state: state.update(assignment_logits=torch.zeros(3, 2)), "another number of samples"),
        (lambda state: state.update(gate=None), "does not fit"),
        (lambda state: state.update(row_state=[torch.zeros(2)]), "row_state|missing"),
        (lambda state: state.update(row_state=[part[:3] for part in state["row_state"]]), "does not fit"),
        (lambda state: state.update(assignment_logits=None), "does not fit"),
        (lambda state: state["experts"].append({}), "longer"),
        (lambda state: state["experts"][1].update(alphas=torch.zeros(4)), r"experts\[1\]\.alphas is \(4,\)"),
        (lambda state: state["gate"].update(more=torch.zeros(4)), r"gate\.more is unknown"),
        (lambda state: state["gate_buffers"].popitem(), "gate_buffers.* is missing"),
        (lambda state: state["expert_buffers"].update({2: {}}), r"expert_buffers\[2\]"),
        (lambda state: state["expert_buffers"][0].update({"head.bias": torch.zeros(9)}), r"head\.bias is \(9,\)"),
        (lambda state: state["architecture_optimizer"].pop("state"), "architecture_optimizer"),
        (lambda state: state["architecture_optimizer"]["state"][0].update(exp_avg=torch.zeros(2)), "exp_avg is"),
        (lambda state: state["architecture_optimizer"]["param_groups"][0].update(params=[0]), "another number"),
    ],
)
def test_states_that_do_not_fit_are_refused_in_a_sentence(damage, sentence):
    straight = make(2)
    straight.step(*batches(0), LEVELS)
    state = state_through_a_file(straight)
    damage(state)
    learner = make(2, seed=1)
    before = everything(learner)
    with pytest.raises(LbgnasError, match=sentence) as caught:
        learner.load_state_dict(state)
    assert "\n" not in str(caught.value)
    assert same(before, everything(learner)) == []


def test_a_state_with_a_gate_does_not_fit_a_learner_without():
    learner = make(1, gate=False)
    with pytest.raises(LbgnasError):
        learner.load_state_dict(state_through_a_file(make(1)))


@pytest.mark.parametrize(
    "arguments",
    [
        lambda gate, experts: (experts, None, None),
        lambda gate, experts: (experts, gate, None),
        lambda gate, experts: (experts, None, torch.zeros(4, 2)),
        lambda gate, experts: (experts, gate, torch.zeros(4, 3)),
    ],
)
def test_learners_that_do_not_fit_together_are_refused(arguments):
    experts = Experts([ToyExpert(), ToyExpert()], ["alphas"])
    with pytest.raises(LbgnasError):
        Learner(*arguments(toy_gate(2), experts))


def test_experts_that_do_not_fit_are_refused():
    with pytest.raises(LbgnasError, match="none given"):
        Experts([])
    with pytest.raises(LbgnasError, match=r"experts\[1\].*'alphas'"):
        Experts([ToyExpert(), nn.Linear(2, 2)], ["alphas"])
    with pytest.raises(LbgnasError, match=r"heda.*nearest is 'head'"):
        Experts([ToyExpert()], ["alphas"], features="heda")
    with pytest.raises(LbgnasError, match=r"experts\[1\].*'head'"):
        Experts([ToyExpert(), nn.Linear(2, 2)], features="head")


def test_an_embedding_that_is_never_reached_is_a_fault():
    experts = Experts([linear_cnn()], features="2")
    module = experts.modules[0]
    experts.call(0, experts.weights(0), {}, torch.ones(2, 2, 3, 3), want_features=True)
    module.forward = lambda x: module[4](x.flatten(1)[:, :4])
    with pytest.raises(LbgnasError, match=r"experts\[0\]: no input reached '2'"):
        experts.call(0, experts.weights(0), {}, torch.ones(2, 2, 3, 3), want_features=True)


# Batches


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x, y, ids: (x, y, ids.clone().index_fill(0, torch.tensor([2, 5]), 7)), "id 7 comes twice"),
        (lambda x, y, ids: (x, y, ids + 20), r"id \d+ is out of range.*0\.\.19"),
        (lambda x, y, ids: (x, y, ids - 20), r"id -\d+ is out of range"),
        (lambda x, y, ids: (x, y + 3, ids), r"label [345] is out of range.*0\.\.2"),
        (lambda x, y, ids: (x, y - 3, ids), r"label -\d is out of range"),
        (lambda x, y, ids: (x, y[:-1], ids), "equally many"),
        (lambda x, y, ids: (x[:-1], y, ids), "equally many"),
        (lambda x, y, ids: (x, y, ids[:, None]), "equally many"),
        (lambda x, y, ids: (x[:0], y[:0], ids[:0]), "training batch: is empty"),
        (lambda x, y, ids: (x, y.double(), ids), "labels are torch.float64"),
    ],
)
def test_batches_that_do_not_fit_are_refused_in_a_sentence(change, sentence):
    learner = make(2)
    train, validation = batches(0)
    before = everything(learner)
    with pytest.raises(LbgnasError, match=sentence):
        learner.step(change(*train), validation, LEVELS)
    assert same(before, everything(learner)) == []


def test_an_empty_validation_batch_is_refused():
    train, validation = batches(0)
    for learner in (make(2), make(1, gate=False)):
        take = learner.step if learner.gate else learner.bilevel_step
        with pytest.raises(LbgnasError, match="validation batch: is empty"):
            take(train, [part[:0] for part in validation], LEVELS)


@pytest.mark.parametrize("name", DISTANCES)
def test_adaptation_of_one_expert_is_none_bit_for_bit(name):
    """There is no rest; the literal Eq. 7 would pull the features to the origin."""
    plain, adapted = make(1), make(1)
    plain.step(*batches(0), LEVELS)
    losses = adapted.step(*batches(0), dataclasses.replace(LEVELS, adaptation=Adaptation(DISTANCES[name], 1.0)))
    assert losses.adaptation == 0
    assert same(everything(plain), everything(adapted)) == []


# Frozen levels, small groups


@pytest.mark.parametrize("architecture", [True, False])
@pytest.mark.parametrize("assignments", [True, False])
def test_frozen_levels_stay_bit_equal_and_others_move(architecture, assignments):
    learner = make(2)
    before = everything(learner)
    levels = dataclasses.replace(LEVELS, architecture=architecture, assignments=assignments)
    for step in range(2):
        losses = learner.step(*batches(step), levels)
        assert min(losses.train_groups) > 0
    moved = set(same(before, {name: everything(learner)[name] for name in before}))
    alphas = {f".experts.{k}.alphas" for k in range(2)}
    assert alphas <= moved if architecture else not alphas & moved
    assert (".assignment_logits" in moved) == assignments
    assert (".row_state.0" in moved) == assignments
    assert {name for name in before if name.startswith((".experts", ".gate.")) and "alphas" not in name} <= moved


def test_rows_outside_the_batch_stay_bit_equal():
    learner = make(3)
    before = learner.assignment_logits.clone()
    train, validation = batches(0)
    learner.step(train, validation, LEVELS)
    others = torch.ones(20, dtype=torch.bool)
    others[train[2]] = False
    assert torch.equal(learner.assignment_logits[others], before[others])
    assert (learner.assignment_logits[train[2]] != before[train[2]]).any(1).all()


def test_an_expert_without_samples_stays_bit_equal():
    """Not even momentum, weight decay or the architecture's own decay move it."""
    learner = make(2)
    learner.step(*batches(0), LEVELS)
    with torch.no_grad():
        learner.gate[-1].weight.zero_()
        learner.gate[-1].bias.copy_(torch.tensor([3.0, -3.0]))
    before = everything(learner)
    losses = learner.step(*batches(1), LEVELS)
    assert losses.train_groups[1] == losses.validation_groups[1] == 0
    moved = same(before, everything(learner))
    assert any(name.startswith(".experts.0") for name in moved)
    assert not any(name.startswith((".experts.1", ".expert_buffers.1")) for name in moved)


class Rowwise(nn.Module):
    """An expert for which one sample alone has one value per channel."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(50, 6)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.first(x.flatten(1)))))


def route_by_sample(learner, train):
    """A gate that sends the first sample, and only that, to expert 0."""
    first = train[0][0].flatten()
    gate = nn.Sequential(nn.Flatten(), nn.Linear(50, 2))
    with torch.no_grad():
        gate[1].weight.copy_(torch.stack([first, -first]) / first.norm())
        others = (train[0][1:].flatten(1) @ first / first.norm()).max()
        threshold = (others + first.norm()) / 2
        gate[1].bias.copy_(torch.stack([-threshold, threshold]))
    learner.gate = gate
    learner.gate_buffers = None


@pytest.mark.parametrize("expert", [ToyExpert, Rowwise])
@pytest.mark.parametrize("adaptation", [None, *DISTANCES])
@pytest.mark.parametrize("way", WAYS)
def test_a_group_of_one_sample_is_finite_in_training_and_after(way, adaptation, expert):
    torch.manual_seed(0)
    names = ["alphas"] if expert is ToyExpert else []
    experts = Experts([expert() for _ in range(2)], names, features="head")
    learner = Learner(experts, toy_gate(2), torch.randn(20, 2))
    train, validation = batches(0)
    route_by_sample(learner, train)
    chosen = None if adaptation is None else Adaptation(DISTANCES[adaptation], 0.1)
    levels = dataclasses.replace(LEVELS, gate=Sgd(1e-3), hypergradient=WAYS[way], adaptation=chosen)
    losses = learner.step(train, validation, levels)
    assert losses.train_groups == [1, 13]
    for name, value in everything(learner).items():
        assert torch.isfinite(value).all(), name
    module = experts.modules[0].eval()
    assert torch.isfinite(module(validation[0])).all()


# Memory


def test_memory_stays_flat():
    torch.manual_seed(0)
    experts = Experts([nn.Sequential(nn.Flatten(), nn.Linear(8, 2)) for _ in range(2)])
    gate = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    learner = Learner(experts, gate, torch.randn(12, 2))
    levels = dataclasses.replace(LEVELS, adaptation=Adaptation(DISTANCES["mmd"], 0.1))
    g = torch.Generator().manual_seed(0)
    samples = torch.randn(12, 2, 2, 2, generator=g), torch.randint(0, 2, (12,), generator=g), torch.arange(12)

    def live():
        gc.collect()
        found = [each for each in gc.get_objects() if type(each) in (torch.Tensor, nn.Parameter)]
        return len(found), sum(each.untyped_storage().nbytes() for each in found)

    sizes = []
    for step in range(200):
        losses = learner.step(samples, samples, levels)
        if step in (20, 100, 199):
            sizes.append(live())
    assert len(set(sizes)) == 1, sizes
    assert losses.experts.grad_fn is None
    assert losses.validation.grad_fn is None
    assert losses.gate.grad_fn is None


def test_class_weights_even_out_the_classes_of_each_group():
    group, labels = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 2, 2])
    counts = initial_counts(2, 3)
    for _ in range(400):
        counts = moved_counts(counts, group, labels)
    weights = class_weights(counts)
    seen = torch.zeros(2, 3).index_put((group, labels), torch.ones(6), accumulate=True)
    assert torch.allclose((weights * seen)[0, :2], torch.full((2,), (weights * seen)[0, 1].item()), rtol=0.02)
    assert torch.allclose((weights * (counts + 1)).sum(1), (counts + 1).sum(1))
    assert torch.isfinite(weights).all()


@pytest.mark.parametrize("groups", [1, 2])
def test_a_balanced_learner_weighs_by_the_steps_before_and_keeps_its_counts(groups):
    torch.manual_seed(0)
    experts = Experts([ToyExpert() for _ in range(groups)], architecture=["alphas"], features="head")
    gate, z = (toy_gate(2), torch.randn(14, 2)) if groups > 1 else (None, None)
    learner = Learner(experts, gate, z, balance_classes=3)
    levels = Levels(gate=Sgd(0.1), experts=Sgd(0.1))
    train, validation = toy_batch(1, 14), toy_batch(2, 14)
    plain = copy.deepcopy(learner)
    plain.class_counts = None
    first, same = learner.step(train, validation, levels), plain.step(train, validation, levels)
    assert torch.allclose(first.experts, same.experts), "before the first step every class weighs 1"
    second, other = learner.step(train, validation, levels), plain.step(train, validation, levels)
    assert not torch.allclose(second.experts, other.experts)
    assert abs(learner.class_counts.sum() - ((3 * groups) * 0.98 + 14) * 0.98 - 14) < 1e-9
    saved = learner.state_dict()
    again = Learner(experts, gate, z, balance_classes=3)
    again.load_state_dict(saved)
    assert torch.equal(again.class_counts, learner.class_counts)
    with pytest.raises(LbgnasError, match="class_counts is needed"):
        again.load_state_dict({**saved, "class_counts": None})


def test_the_bilevel_step_weighs_classes_as_the_single_network_would():
    torch.manual_seed(0)
    experts = Experts([ToyExpert()], architecture=["alphas"], features="head")
    learner = Learner(experts, None, None, balance_classes=3)
    learner.class_counts = torch.tensor([[40.0, 10.0, 5.0]])
    weights = learner._balanced(Levels(gate=Sgd(0.0), experts=Sgd(0.1)), torch.ones(1)).class_weights
    x, y, ids = toy_batch(1, 14)
    with BatchStatistics(update=False):
        each = F.cross_entropy(copy.deepcopy(experts.modules[0])(x), y, reduction="none")
    levels = Levels(gate=Sgd(0.0), experts=Sgd(0.1), architecture=False)
    found = learner.bilevel_step((x, y, ids), toy_batch(2, 14), levels)
    assert torch.allclose(found.experts, (weights[0, y] * each).mean())
