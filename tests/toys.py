"""Small gates and experts for tests of the mathematics, and the same iteration by brute force."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lbgnas.batch_statistics import BatchStatistics
from lbgnas.grouping.unrolled import Levels


class ToyExpert(nn.Module):
    """Two convolutions of which the second is a softmax-weighted sum of candidates; batch norms, max pooling."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.candidates = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)])
        self.norm_2 = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, classes)
        self.alphas = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        state = F.max_pool2d(F.relu(self.norm(self.first(x))), 3, 1, 1)
        mixture = self.alphas.softmax(0)
        mixed = sum(w * f(state) for w, f in zip(mixture, [*self.candidates, lambda s: s], strict=True))
        return self.head(torch.tanh(self.norm_2(mixed)).mean((2, 3)))


def toy_gate(groups: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.GroupNorm(1, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 9, groups))


def toy_batch(seed: int, count: int, classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2, 5, 5, generator=g, dtype=torch.float64)
    return x, torch.randint(0, classes, (count,), generator=g), torch.arange(count)


def clipped(gradient: list[Tensor], clip: float | None) -> list[Tensor]:
    if clip is None:
        return gradient
    size = torch.sqrt(sum((g * g).sum() for g in gradient))
    factor = (clip / (size + 1e-6)).clamp(max=1.0)
    return [factor * g for g in gradient]


def sgd(weights, gradient, buffers, settings):
    gradient = clipped(gradient, settings.clip)
    return [
        w - settings.rate * (settings.momentum * b + g + settings.weight_decay * w)
        for w, g, b in zip(weights, gradient, buffers, strict=True)
    ]


def brute_force(
    experts,
    gate,
    z,
    train,
    validation,
    levels: Levels,
    gate_buffers,
    expert_buffers,
    names=("alphas",),
    head="head",
):
    """dL3/dZ and dL3/dA by one backward through both unrolled steps, every sample through its own expert."""
    x, y, _ = train
    vx, vy, _ = validation
    z = z.clone().requires_grad_()
    count = len(experts.modules)
    architectures = [
        {n: p.detach().clone().requires_grad_() for n, p in m.named_parameters() if n in names} for m in experts.modules
    ]
    with BatchStatistics(update=False):
        t = {n: p.detach().clone().requires_grad_() for n, p in gate.named_parameters()}
        f = functional_call(gate, t, (x,)).softmax(1)
        c = z.softmax(1)
        j = c.argmax(1)
        picked = torch.arange(len(x))
        l1 = -(c[picked, j] * f[picked, j].log()).mean()
        mean = f.mean(0)
        information = (mean * mean.log()).sum() - (f * f.log()).sum(1).mean()
        objective = l1 + levels.mutual_information * information
        g = torch.autograd.grad(objective, list(t.values()), create_graph=True)
        stepped = sgd(list(t.values()), g, [gate_buffers[n] for n in t], levels.gate)
        t2 = dict(zip(t, stepped, strict=True))
        f = functional_call(gate, t2, (x,)).softmax(1)
        fv = functional_call(gate, t2, (vx,)).softmax(1)
    e, group = f.max(1)
    ev, group_v = fv.max(1)
    l3 = 0
    answers = []
    for k in range(count):
        module = experts.modules[k]
        s = {n: p.detach().clone().requires_grad_() for n, p in module.named_parameters() if n not in names}
        rows = (group == k).nonzero()[:, 0]
        if len(rows):
            caught = []
            rest = (group != k).nonzero()[:, 0]
            handle = module.get_submodule(head).register_forward_pre_hook(
                lambda m, a, caught=caught: caught.append(a[0])
            )
            adapted = levels.adaptation is not None and count > 1 and len(rows) > 1
            if not adapted:
                with BatchStatistics(update=False):
                    logits = functional_call(module, {**s, **architectures[k]}, (x[rows],))
            else:
                both = torch.cat([rows, rest])
                with BatchStatistics(update=False, composed=True, rows=len(rows)):
                    logits = functional_call(module, {**s, **architectures[k]}, (x[both],))[: len(rows)]
            handle.remove()
            each = F.cross_entropy(logits, y[rows], reduction="none")
            if levels.class_weights is not None:
                each = each * levels.class_weights[k, y[rows]]
            l2 = (e[rows] * each).sum() / len(x)
            if adapted:
                l2 = l2 + levels.adaptation.weight * levels.adaptation.distance(caught[0], f[both, k], y[both])
            g = torch.autograd.grad(l2, list(s.values()), create_graph=True)
            stepped = sgd(list(s.values()), g, [expert_buffers[k][n] for n in s], levels.experts)
            s = dict(zip(s, stepped, strict=True))
        rows = (group_v == k).nonzero()[:, 0]
        if levels.mixture:
            with BatchStatistics(update=False):
                answers.append(functional_call(module, {**s, **architectures[k]}, (vx,)).softmax(1))
        elif len(rows):
            with BatchStatistics(update=False):
                logits = functional_call(module, {**s, **architectures[k]}, (vx[rows],))
            l3 = l3 + F.cross_entropy(ev[rows, None] * logits, vy[rows], reduction="sum") / len(vx)
    if levels.mixture:
        mixed = sum(fv[:, k, None] * answer for k, answer in enumerate(answers))
        l3 = F.nll_loss(mixed.log(), vy)
    flat = [p for a in architectures for p in a.values()]
    found = torch.autograd.grad(l3, [z, *flat], allow_unused=True)
    return found[0], list(found[1:]), l3.detach()
