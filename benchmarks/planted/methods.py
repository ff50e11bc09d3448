"""What is compared on a planted problem. Every method ends with networks trained on the whole pool by one recipe."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn

from benchmarks.planted import models, remedies
from benchmarks.planted.grouping import (
    DALBG,
    FROZEN,
    LITERAL,
    OURS,
    UNSCOUTED,
    Options,
    as_scouted,
    learn_groups,
    scout,
)
from benchmarks.planted.problems import Problem
from benchmarks.planted.training import RECIPES, Recipe, fit, fit_classifier, k_means, logits_of
from lbgnas.grouping.assignments import RowOptimizer
from lbgnas.grouping.objectives import mixture_loss


@dataclass(frozen=True)
class Answer:
    """What a method says of the test part, and how it grouped.

    Attributes:
        predicted: (test,).
        test_group, pool_group: the gate's groups, or None for a method without a gate.
        assigned: the groups of C's rows for the training half, or None for a method without C.
    """

    predicted: Tensor
    test_group: Tensor | None = None
    pool_group: Tensor | None = None
    assigned: Tensor | None = None


Method = Callable[[Problem, Recipe, int], Answer]


def _one(network: Callable[[Problem], nn.Module]) -> Method:
    def run(problem: Problem, recipe: Recipe, seed: int) -> Answer:
        model = fit_classifier(network(problem), problem.pool.x, problem.pool.y, recipe, seed)
        return Answer(logits_of(model, problem.test.x).argmax(1))

    return run


def _split(problem: Problem, recipe: Recipe, seed: int, pool_group: Tensor, test_group: Tensor) -> Tensor:
    """Return the predictions of experts that were each trained on their own samples of the pool."""
    pool, predicted = problem.pool, torch.zeros_like(problem.test.y)
    for index in range(problem.groups):
        own, asked = ((group == index).nonzero()[:, 0] for group in (pool_group, test_group))
        model = models.trainable(problem)
        if len(own) > 1:
            fit_classifier(model, pool.x[own], pool.y[own], recipe, seed)
        model.eval()  # one without samples is not trained, and may be asked for none
        predicted[asked] = logits_of(model, problem.test.x[asked]).argmax(1)
    return predicted


def oracle(problem: Problem, recipe: Recipe, seed: int) -> Answer:
    """Experts on the planted groups."""
    pool, test = problem.pool.group, problem.test.group
    return Answer(_split(problem, recipe, seed, pool, test), test, pool)


def gated_oracle(problem: Problem, recipe: Recipe, seed: int) -> Answer:
    """Experts on the planted groups, asked by a gate that was trained on them too: no learned grouping knows more."""
    pool = problem.pool
    gate = fit_classifier(models.gate(problem, problem.groups), pool.x, pool.group, recipe, seed)
    test = logits_of(gate, problem.test.x).argmax(1)
    return Answer(_split(problem, recipe, seed, pool.group, test), test, pool.group)


def random_split(problem: Problem, recipe: Recipe, seed: int) -> Answer:
    """Experts on groups drawn by lot, asked by lot."""
    pool, test = (torch.randint(problem.groups, (len(part),)) for part in (problem.pool, problem.test))
    return Answer(_split(problem, recipe, seed, pool, test), test, pool)


def _kmeans(features: Callable[[Problem, Recipe, int], tuple[Tensor, Tensor]]) -> Method:
    def run(problem: Problem, recipe: Recipe, seed: int) -> Answer:
        pool, test = features(problem, recipe, seed)
        found = k_means(pool, problem.groups, seed)
        groups = [torch.from_numpy(found.predict(part.numpy())).long() for part in (pool, test)]
        return Answer(_split(problem, recipe, seed, *groups), groups[1], groups[0])

    return run


def pixels(problem: Problem, recipe: Recipe, seed: int) -> tuple[Tensor, Tensor]:
    """Return the raw inputs of pool and test part as vectors."""
    return problem.pool.x.flatten(1), problem.test.x.flatten(1)


def features(problem: Problem, recipe: Recipe, seed: int) -> tuple[Tensor, Tensor]:
    """Return what the last layer of the single network of equal parameters sees."""
    model = models.single_of_equal_parameters(problem)
    fit_classifier(model, problem.pool.x, problem.pool.y, recipe, seed)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]

    def seen(x: Tensor) -> Tensor:
        found: list[Tensor] = []
        with last.register_forward_pre_hook(lambda _, given: found.append(given[0])):
            logits_of(model, x)
        return torch.cat(found)

    return seen(problem.pool.x), seen(problem.test.x)


def ensemble(problem: Problem, recipe: Recipe, seed: int) -> Answer:
    """Bagging: K experts on bootstrap samples, their probabilities averaged."""
    pool, total = problem.pool, 0
    for _ in range(problem.groups):
        rows = torch.randint(len(pool), (len(pool),))
        model = fit_classifier(models.trainable(problem), pool.x[rows], pool.y[rows], recipe, seed)
        total = total + logits_of(model, problem.test.x).softmax(1)
    return Answer(torch.as_tensor(total).argmax(1))


class Mixture(nn.Module):
    """K experts and a gate, all asked for every sample."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.experts = nn.ModuleList([models.trainable(problem) for _ in range(problem.groups)])
        self.gate = models.gate(problem, problem.groups)


def soft_mixture(problem: Problem, recipe: Recipe, seed: int) -> Answer:
    """Jointly trained soft mixture of experts with a load-balance term of weight 0.01 (K sum_k mean(f_k)^2)."""
    pool, test = problem.pool, problem.test

    def loss(mixture: nn.Module, rows: Tensor) -> Tensor:
        assert isinstance(mixture, Mixture)
        x = pool.x[rows]
        probs = mixture.gate(x).softmax(1)
        balance = problem.groups * (probs.mean(0) ** 2).sum()
        return mixture_loss([expert(x) for expert in mixture.experts], pool.y[rows], probs) + 0.01 * balance

    model = fit(Mixture(problem), len(pool), loss, recipe, seed)
    assert isinstance(model, Mixture)
    probs = logits_of(model.gate, test.x).softmax(1)
    each = torch.stack([logits_of(expert, test.x).softmax(1) for expert in model.experts], 1)
    predicted = (probs[:, :, None] * each).sum(1).argmax(1)
    return Answer(predicted, probs.argmax(1), logits_of(model.gate, pool.x).argmax(1))


def _grouped(options: Options) -> Method:
    def run(problem: Problem, recipe: Recipe, seed: int) -> Answer:
        found = learn_groups(problem, options, recipe, seed)
        pool, test = (logits_of(found.gate, part.x).argmax(1) for part in (problem.pool, problem.test))
        torch.manual_seed(seed)
        return Answer(_split(problem, recipe, seed, pool, test), test, pool, found.assignment_logits.argmax(1))

    return run


GROUPED = {
    "lbg, literal": LITERAL,
    "lbg, no scouts": UNSCOUTED,
    "lbg": OURS,
    "lbg, frozen C": FROZEN,
    "dalbg": DALBG,
}
REMEDIES = {
    "lbg, no scouts, no information term": dataclasses.replace(UNSCOUTED, mutual_information=0.0),
    "lbg, no scouts, information term 0.3": dataclasses.replace(UNSCOUTED, mutual_information=0.3),
    "lbg, no scouts, C by SGD at rate 1000": dataclasses.replace(UNSCOUTED, rows=RowOptimizer("sgd", 1000.0)),
    "lbg, no scouts, gate four times as fast": dataclasses.replace(UNSCOUTED, gate_rate=0.2),
    "lbg, no scouts, level 3 of the mixture": dataclasses.replace(UNSCOUTED, mixture=True),
    **{
        f"lbg, no scouts, {name}": dataclasses.replace(UNSCOUTED, remedy=remedy)
        for name, remedy in remedies.REMEDIES.items()
    },
    "lbg, level 3 of the mixture": dataclasses.replace(OURS, mixture=True),
    "lbg, four times as many scouts": dataclasses.replace(OURS, scouts=32),
}
"""What else was tried; not part of the full run."""
GATED_ORACLE = "oracle, learned gate"
TRIED = (*REMEDIES, GATED_ORACLE)
METHODS: dict[str, Method] = {
    "single, equal parameters": _one(models.single_of_equal_parameters),
    "single, equal MACs": _one(models.single_of_equal_macs),
    "random split": random_split,
    "k-means, inputs": _kmeans(pixels),
    "k-means, features": _kmeans(features),
    "bagging": ensemble,
    "soft mixture": soft_mixture,
    **{name: _grouped(options) for name, options in GROUPED.items()},
    "oracle": oracle,
}
FULL = tuple(METHODS)
METHODS |= {name: _grouped(options) for name, options in REMEDIES.items()} | {GATED_ORACLE: gated_oracle}


def scouts_of(method: str) -> Options | None:
    """Return what a method's scouts depend on; methods of the same can share them. None without scouts."""
    options = (GROUPED | REMEDIES).get(method)
    return as_scouted(options) if options and options.scouts else None


def measured(problem: Problem, method: str, seed: int, epochs: int | None = None) -> dict[str, object]:
    """Run one method and return its row: errors in percent, ARI against the planted groups, share, CPU seconds."""
    recipe = RECIPES[problem.kind]
    if epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=epochs)
    scouts = scouts_of(method)
    scouting = scout(problem, scouts, recipe, seed)[1] if scouts else 0.0
    torch.manual_seed(seed)
    started = time.process_time()
    answer = METHODS[method](problem, recipe, seed)
    seconds = scouting + time.process_time() - started
    wrong = (answer.predicted != problem.test.y).double()
    groups = problem.test.group
    share = None
    if answer.pool_group is not None:
        counts = torch.bincount(answer.pool_group, minlength=problem.groups)
        share = float(counts.min() / counts.sum())
    return {
        "problem": problem.name,
        "method": method,
        "seed": seed,
        "error": 100 * float(wrong.mean()),
        "ari_gate": None if answer.test_group is None else float(adjusted_rand_score(groups, answer.test_group)),
        "ari_assignments": None
        if answer.assigned is None
        else float(adjusted_rand_score(problem.train.group, answer.assigned)),
        "min_share": share,
        "worst_group_error": max(100 * float(wrong[groups == index].mean()) for index in range(problem.groups)),
        "seconds": seconds,
    }
