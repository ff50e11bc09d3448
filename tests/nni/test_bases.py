from __future__ import annotations

import pytest
import torch
from nni.nas.hub.pytorch import NasBench201
from nni.nas.nn.pytorch import InputChoice, ModelSpace
from torch import nn

from lbgnas.bases.base import find_base
from lbgnas.bases.pdarts import kept_candidates
from lbgnas.errors import LbgnasError
from lbgnas.nni import LBG
from lbgnas.nni.builder import choices_of
from lbgnas.nni.relaxed import RelaxedCell
from lbgnas.nni.settings import Timetable, strategy_settings, timetable
from tests.nni.small import Choices, cells, evaluator, run


def relaxed(base, space, **more):
    return LBG(num_experts=1, grouping="none", base=base, **more).mutate_model(space).experts[0]


# ------------------------------------------------------------------------------------------ partial channels


def test_partial_channels_pass_a_quarter_and_shuffle(float64):
    network = relaxed("pcdarts", cells(width=8)).double()
    cell = next(module for module in network.modules() if isinstance(module, RelaxedCell))
    state = torch.randn(2, 8, 4, 4)
    ops = cell.ops[0][0]
    edge = f"{cell.label}/2_0"
    output = cell._edge(edge, ops, state)
    weights = cell._arch_alpha[edge].softmax(0)
    mixed = sum(weight * op(state[:, :2]) for weight, op in zip(weights, ops.values(), strict=False))
    # Channel c of 8 comes from place (c % 4) * 2 + c // 4 of the joined ones.
    joined = torch.cat([mixed, state[:, 2:]], 1)
    for channel in range(8):
        torch.testing.assert_close(output[:, channel], joined[:, (channel % 4) * 2 + channel // 4])


def test_edges_are_normalised_and_read_off_by_beta():
    network = relaxed("pcdarts", cells(width=8))
    sizes = {name: len(value) for name, value in network.named_parameters() if "_arch_beta" in name}
    assert sorted(sizes.values()) == [2, 2, 3, 3]
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "_arch_alpha" in name:
                value.zero_()
            if "_arch_beta" in name and value.numel() == 3:
                value.copy_(torch.tensor([0.0, 2.0, 1.0]))
    cell = next(module for module in network.modules() if isinstance(module, RelaxedCell))
    sample = cell.export({})
    assert [sample[f"normal/input_3_{place}"] for place in (0, 1)] == [[1], [2]]


def test_partial_channels_are_refused_where_channels_are_not_known():
    for space, words in (
        (Choices(), "the choice 'first' has ready layers"),
        (cells(width=(8, 16)), "one fixed number of channels"),
        (cells(width=4), "a multiple of 8.*has 4 channels, the nearest is 8"),
        (NasBench201(4, 1), "has ready layers"),
    ):
        with pytest.raises(LbgnasError, match=words):
            relaxed("pcdarts", space)


# --------------------------------------------------------------------------------------------- auxiliary skip


def test_an_auxiliary_skip_stands_beside_every_edge(float64):
    torch.manual_seed(0)
    network = relaxed("darts-", cells()).double()
    images = torch.randn(2, 3, 8, 8)
    edges = [module for module in network.modules() if isinstance(module, RelaxedCell)]
    assert all(len(cell.auxiliary) == 2 + 3 for cell in edges)
    for cell in edges:
        cell.auxiliary_weight = 0.0
    without = network(images)
    cell = edges[0]
    inputs = [torch.randn(2, 12, 8, 8), torch.randn(2, 12, 8, 8)]
    bare = cell(inputs)[1]
    cell.auxiliary_weight = 0.7
    beside = cell(inputs)[1]
    states = cell.preprocessor(inputs)
    first = bare[:, :4] + 0.7 * (states[0] + states[1])
    torch.testing.assert_close(beside[:, :4], first)
    assert not torch.equal(network(images), without)


def test_the_auxiliary_skips_weight_falls_over_the_epochs(monkeypatch):
    strategy = LBG(base="darts-", num_experts=2)
    seen = []
    from lbgnas.nni.module import GroupedModule

    start = GroupedModule.on_train_epoch_start

    def spy(self):
        result = start(self)
        seen.append({module.auxiliary_weight for module in self.modules() if hasattr(module, "auxiliary_weight")})
        return result

    monkeypatch.setattr(GroupedModule, "on_train_epoch_start", spy)
    run(Choices(), evaluator(epochs=2), strategy)
    assert seen == [{1.0}, {0.5}]


class NoSkips(ModelSpace):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.choice = InputChoice(2, n_chosen=1, label="source")
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.choice([x, -x]).mean((2, 3)))


def test_an_auxiliary_skip_is_refused_where_there_is_none_to_copy():
    with pytest.raises(LbgnasError, match="has no candidate named 'skip_connect'"):
        relaxed("darts-", cells(operations=("sep_conv_3x3", "max_pool_3x3")))
    with pytest.raises(LbgnasError, match="NoSkips has none; use base darts"):
        relaxed("darts-", NoSkips())


# ------------------------------------------------------------------------------------------------------ stages


def test_three_stages_deepen_the_network_and_drop_candidates():
    strategy = LBG(base="pdarts", num_experts=2, stages={"added_cells": (0, 0, 1)}, seed=1)
    done = run(
        cells(operations=("skip_connect", "sep_conv_3x3", "max_pool_3x3", "avg_pool_3x3")),
        evaluator(epochs=3),
        strategy,
    )
    for expert, left in zip(strategy.supernet.experts, strategy.oneshot_module.kept, strict=True):
        assert sum(isinstance(module, RelaxedCell) for module in expert.modules()) == 4
        choices = choices_of(expert)
        assert len(choices) == 10
        count = kept_candidates(strategy.base.kept[2], 5)
        for label, (alpha, names, modules) in choices.items():
            assert len(alpha) == len(names) == count
            assert names == left[label]
            assert set(modules) == set(names) - {"none"}
    assert len(done.export_top_models(top_k=2, formatter="dict")) == 2


def test_stages_keep_the_strongest_candidates_of_every_choice():
    strategy = LBG(base="pdarts", num_experts=1, grouping="none", stages={"added_cells": (0, 0, 0)})
    network = strategy.mutate_model(Choices()).experts[0]
    with torch.no_grad():
        dict(network.named_parameters())["second._arch_alpha"].copy_(torch.tensor([0.3, 0.1, 0.2]))
    left = strategy._builder.kept(network, 1)
    assert left["second"] == ("conv", "pool")
    smaller = strategy._builder(1, [left])[0]
    assert set(smaller.second._modules) - {"_softmax"} == {"conv", "pool"}
    assert smaller.second.export({}) == {"second": ("conv", "pool")[int(smaller.second._arch_alpha.argmax())]}


def test_deeper_stages_are_refused_where_a_space_cannot_be_built_deeper():
    with pytest.raises(LbgnasError, match="Choices was not built with one whole number num_cells"):
        relaxed("pdarts", Choices())
    with pytest.raises(LbgnasError, match="NDS was not built with one whole number num_cells"):
        relaxed("pdarts", cells(num_cells=(3, 6)))


# ---------------------------------------------------------------------------------------------------- schedules


def test_when_stages_begin_and_architectures_rest():
    def table(base, epochs, warmup=None, **more):
        return timetable(strategy_settings(base, "lbg", 2, more), find_base(base), epochs, warmup)

    assert table("darts", 50) == Timetable(50, 1, 0)
    assert table("pcdarts", 50) == Timetable(50, 1, 15)
    assert table("pcdarts", 50, warmup=2) == Timetable(50, 1, 2)
    assert table("darts", 50, architecture={"warmup": 0.5}) == Timetable(50, 1, 25)
    assert table("pdarts", 75) == Timetable(75, 3, 10)
    assert table("darts", None).frozen == 0
    with pytest.raises(LbgnasError, match="give the trainer max_epochs"):
        table("darts-", -1)
    with pytest.raises(LbgnasError, match="max_epochs is 2, base pdarts has 3 stages"):
        table("pdarts", 2)


def test_architectures_rest_in_the_warm_up_and_c_does_not():
    strategy = LBG(warmup_epochs=1)
    start = {}
    run(Choices(), evaluator(), strategy)
    for index, own in enumerate(strategy.oneshot_module.learner.architecture):
        start[index] = own
    fresh = LBG(warmup_epochs=1).mutate_model(Choices())
    for expert, own in zip(fresh.experts, start.values(), strict=True):
        known = dict(expert.named_parameters())
        assert all(torch.equal(value, known[name]) for name, value in own.items())
    assert bool((strategy.oneshot_module.learner.row_state.moves == 1).all())
