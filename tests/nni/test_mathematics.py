from __future__ import annotations

import copy

import pytest
import torch
from nni.nas.strategy import DARTS

from lbgnas.batch_statistics import BatchStatistics
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.learner import Learner
from lbgnas.grouping.sgd import Sgd
from lbgnas.grouping.unrolled import unrolled_step
from lbgnas.nni import LBG
from lbgnas.nni.module import architecture_names
from tests.nni.small import Choices, cells, evaluator, gate, run
from tests.toys import brute_force


def recorded(monkeypatch, strategy, space):
    """Run one step of an experiment in float64; return what the learner was given and what it then had."""
    seen = []
    step = Learner.step

    def spy(self, train, validation, levels):
        before = copy.deepcopy(self)
        losses = step(self, train, validation, levels)
        seen.append((before, train, validation, levels, copy.deepcopy(self)))
        return losses

    monkeypatch.setattr(Learner, "step", spy)
    own = evaluator(count=6, batch=6, precision="64-true", dtype=torch.float64)
    run(space, own, strategy)
    return seen[0]


@pytest.mark.parametrize("grouping", ["lbg", "dalbg"])
def test_hypergradients_of_an_experiment_are_those_of_autograd_through_both_steps(monkeypatch, grouping):
    torch.manual_seed(0)
    strategy = LBG(grouping=grouping, gradient_clip_val=0.05, gate={"rate": 0.5}, gate_module=gate(), seed=4)
    learner, train, validation, levels, after = recorded(monkeypatch, strategy, Choices())
    assert levels.experts == Sgd(0.05, 0.0, 0.0, 0.05)
    experts, own_gate, z = learner.experts, learner.gate, learner.assignment_logits[train[2]]
    found = unrolled_step(experts, own_gate, z, train, validation, levels)
    zeros = {name: torch.zeros_like(value) for name, value in own_gate.named_parameters()}
    buffers = [
        {name: torch.zeros_like(value) for name, value in module.named_parameters()} for module in experts.modules
    ]
    brute_z, brute_a, loss = brute_force(
        experts, own_gate, z, train, validation, levels, zeros, buffers, names=experts.names, head="head"
    )
    torch.testing.assert_close(found.losses.validation, loss, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.assignment_gradient, brute_z, rtol=1e-8, atol=1e-14)
    names = [(index, name) for index in range(2) for name in experts.names]
    for (index, name), brute in zip(names, brute_a, strict=True):
        own = found.architecture_gradients[index][name]
        torch.testing.assert_close(own, brute, rtol=1e-8, atol=1e-14)
    assert all(found.losses.train_groups)
    # And the experiment's learner is where this step leads.
    for index, weights in found.experts.items():
        named = dict(after.experts.modules[index].named_parameters())
        for name, value in weights.items():
            torch.testing.assert_close(named[name], value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("build", [Choices, cells])
def test_relaxed_spaces_compute_what_nnis_own_do(build, float64):
    torch.manual_seed(0)
    space = build().double()
    ours = LBG(num_experts=1, grouping="none").mutate_model(copy.deepcopy(space)).experts[0].double()
    theirs = DARTS().mutate_model(copy.deepcopy(space)).double()
    state = ours.state_dict()
    theirs.load_state_dict({name: value for name, value in state.items() if "_arch_beta" not in name})
    images = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-12, atol=1e-14)


def test_hypergradients_of_hub_cells_agree_with_reverse_mode(float64):
    """Forward mode through NNI's modules against a backward through the backward."""
    from lbgnas.grouping.hypergradient import Exact
    from lbgnas.grouping.levels import Levels

    grouped = LBG(num_experts=2, seed=2).mutate_model(cells()).double()
    names = architecture_names(grouped.experts[0])
    experts = Experts(list(grouped.experts), names)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 3, 8, 8, generator=generator)
    labels = torch.arange(6) % 3
    batch = (images, labels, torch.arange(6))
    z = torch.randn(6, 2, generator=generator)
    given = {"gate": Sgd(0.5), "experts": Sgd(0.1, 0.9, 1e-3, 5.0)}
    results = []
    for mode in ("forward", "reverse"):
        levels = Levels(**given, hypergradient=Exact(mode))
        with BatchStatistics(update=False):
            results.append(unrolled_step(experts, grouped.gate, z, batch, batch, levels))
    first, second = results
    torch.testing.assert_close(first.assignment_gradient, second.assignment_gradient, rtol=1e-9, atol=1e-15)
    assert first.architecture_gradients
    for index, own in first.architecture_gradients.items():
        assert len(own) == 2 * (2 + 3)
        for name, value in own.items():
            torch.testing.assert_close(value, second.architecture_gradients[index][name], rtol=1e-8, atol=1e-14)


def test_a_price_reaches_the_alphas():
    """Expected cost and its gradient, by a sum over candidates and by autograd of that sum."""
    from lbgnas.nni.cost import candidate_costs, expected_cost

    expert = LBG(num_experts=1, grouping="none").mutate_model(Choices()).experts[0]
    parameters = candidate_costs(expert, "parameters", torch.zeros(1, 3, 8, 8))
    assert {name: own.tolist() for name, own in parameters.items()} == {
        "first._arch_alpha": [144, 0, 0],
        "second._arch_alpha": [16, 0, 0],
    }
    flops = candidate_costs(expert, "flops", torch.zeros(1, 3, 8, 8))
    assert flops["first._arch_alpha"].tolist() == [2 * 64 * 144, 0, 0]
    assert flops["second._arch_alpha"].tolist() == [2 * 64 * 16, 0, 0]
    cost = expected_cost(parameters, 0.3)
    alphas = {name: torch.zeros(3, requires_grad=True) for name in parameters}
    value = cost(alphas)
    assert value.item() == pytest.approx(0.3)
    value.backward()
    share = alphas["first._arch_alpha"].grad
    assert share[0] == pytest.approx(0.3 * 144 / (160 / 3) * (1 / 3) * (2 / 3), rel=1e-5)
    assert share[1] < 0


def test_a_search_with_a_heavy_price_ends_in_cheap_architectures():
    strategy = LBG(num_experts=2, cost="parameters", cost_weight=100.0, arc_learning_rate=0.1, seed=5)
    done = run(Choices(), evaluator(count=16, epochs=4), strategy)
    samples = done.export_top_models(top_k=2, formatter="dict")
    assert all(sample["first"] != 0 and sample["second"] != "conv" for sample in samples)
