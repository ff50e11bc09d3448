from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from lbgnas.grouping.scouting import LARGEST, Scout, best_scout, posterior_logits, routed_loss
from lbgnas.grouping.sgd import Sgd


def rules(count, seed=0):
    """Two groups by the sign of the first coordinate, each with a linear rule of its own."""
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    group = (x[:, 0] > 0).long()
    return x, torch.where(group == 0, x[:, 1] > 0, x[:, 2] > 0).long(), group


def scout(seed, weight=0.0):
    torch.manual_seed(seed)
    return Scout(nn.Linear(4, 2), [nn.Linear(4, 2) for _ in range(2)], weight)


def batches(x, y, seed=0):
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    return [(x[rows], y[rows], rows) for rows in order.split(32)]


def test_the_posterior_is_bayes_rule_and_its_rows_can_still_be_moved():
    own = scout(0)
    x, y, _ = rules(6)
    joint = own.gate(x).softmax(1) * torch.stack([e(x).softmax(1)[torch.arange(6), y] for e in own.experts], 1)
    found = posterior_logits(own, x, y)
    movable = (joint.log().amax(1) - joint.log().amin(1)) < LARGEST
    assert 0 < movable.sum() < 6
    assert torch.allclose(found.softmax(1)[movable], (joint / joint.sum(1, keepdim=True))[movable], atol=1e-6)
    sure = Scout(own.gate, [nn.Linear(4, 2), own.experts[1]], 0.0)
    with torch.no_grad():
        sure.experts[0].bias.copy_(torch.tensor([50.0, -50.0]))
    assert posterior_logits(sure, x, y).min() >= -LARGEST


def test_the_routed_loss_is_that_of_the_chosen_experts():
    own = scout(1)
    x, y, _ = rules(50)
    each = torch.stack([F.cross_entropy(e(x), y, reduction="none") for e in own.experts], 1)
    expected = each[torch.arange(50), own.gate(x).argmax(1)].mean()
    assert abs(routed_loss(own, batches(x, y)) - expected.item()) < 1e-6


def test_the_best_scout_finds_the_groups_and_only_training_rows_are_written():
    (x, y, group), (vx, vy, _) = rules(600), rules(300, 1)
    found = best_scout(
        [lambda seed=seed: scout(seed, 0.5 * (seed % 2)) for seed in range(6)],
        lambda number, epoch: batches(x, y, 100 * number + epoch),
        lambda: batches(vx, vy),
        700,
        15,
        Sgd(0.3, 0.9),
    )
    assert len(found.losses) == 6
    assert min(found.losses) < 0.2 < max(found.losses)
    agreement = (found.gate(x).argmax(1) == group).float().mean()
    assert max(agreement, 1 - agreement) > 0.95
    assert not found.assignment_logits[600:].any()
    rows = (found.assignment_logits[:600].argmax(1) == group).float().mean()
    assert max(rows, 1 - rows) > 0.9
    assert found.mutual_information == 0.5 * (found.losses.index(min(found.losses)) % 2)


def test_a_scout_that_goes_astray_is_not_chosen():
    x, y, _ = rules(64)

    def broken():
        made = scout(0)
        with torch.no_grad():
            made.gate.weight.fill_(float("nan"))
            made.experts[0].weight.fill_(float("nan"))
        return made

    arguments = (lambda number, epoch: batches(x, y), lambda: batches(x, y), 64, 1, Sgd(0.1))
    found = best_scout([broken, lambda: scout(1)], *arguments)
    assert found.losses[0] == float("inf")
    assert torch.isfinite(found.gate.weight).all()
