from __future__ import annotations

import dataclasses

import pytest
import torch

from lbgnas.grouping.cost import with_cost
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.learner import Learner
from lbgnas.grouping.levels import Levels
from lbgnas.grouping.sgd import Sgd
from tests.toys import ToyExpert, toy_batch, toy_gate


def price(architecture):
    return 0.3 * (architecture["alphas"].softmax(0) * torch.tensor([5.0, 1.0, 0.0])).sum()


@pytest.mark.usefixtures("float64")
def test_the_price_is_added_to_the_hypergradient():
    experts = Experts([ToyExpert() for _ in range(2)], ("alphas",))
    known = {0: {"alphas": torch.tensor([0.1, -0.2, 0.3])}}
    found = with_cost(known, experts, price)
    assert set(found) == {0}
    shares = experts.architecture(0)["alphas"].softmax(0)
    costs = torch.tensor([5.0, 1.0, 0.0])
    by_hand = 0.3 * shares * (costs - (shares * costs).sum())
    torch.testing.assert_close(found[0]["alphas"], known[0]["alphas"] + by_hand)
    assert experts.modules[0].alphas.grad is None


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("alone", [False, True])
def test_a_learner_moves_by_the_priced_gradient_and_by_nothing_else(alone):
    def learner():
        torch.manual_seed(2)
        experts = Experts([ToyExpert() for _ in range(1 if alone else 2)], ("alphas",))
        gate, logits = (None, None) if alone else (toy_gate(2), torch.randn(8, 2))
        return Learner(experts, gate, logits, architecture_decay=0.0)

    levels = Levels(gate=Sgd(0.5), experts=Sgd(0.1))
    batches = toy_batch(0, 8), toy_batch(1, 8)
    free, priced = learner(), learner()
    for own, cost in ((free, None), (priced, price)):
        step = own.bilevel_step if alone else own.step
        step(*batches, dataclasses.replace(levels, cost=cost))
    for index in range(len(free.experts)):
        one, other = (own.architecture_optimizer.state[own._alphas[index]] for own in (free, priced))
        if not one:
            continue  # an expert without a validation sample has no gradient, and no price
        start = learner().experts.architecture(index)["alphas"].requires_grad_()
        (slope,) = torch.autograd.grad(price({"alphas": start}), [start])
        # Adam's first moment after one step is half the gradient.
        torch.testing.assert_close(2 * other["exp_avg"], 2 * one["exp_avg"] + slope)
    if not alone:
        assert torch.equal(free.assignment_logits, priced.assignment_logits)
        for one, other in zip(free.experts.modules, priced.experts.modules, strict=True):
            assert torch.equal(one.state_dict()["head.weight"], other.state_dict()["head.weight"])
