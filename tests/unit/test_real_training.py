"""The training that real images are compared with takes the steps it is told, over the same rows again and again."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.real import training
from lbgnas.data.sources import open_pool
from lbgnas.networks.stacked import Output


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, images: torch.Tensor) -> Output:
        return Output(self.head(images.mean((2, 3))), None)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_as_many_steps_as_told(steps: int) -> None:
    data, seen = open_pool("coloured-digits", limit=300), []
    rows = torch.arange(0, 290, 2)

    def loss(each: torch.Tensor, batch: training.Batch) -> torch.Tensor:
        seen.append(batch.ids)
        return each.mean()

    network = training.train(Small(), data, rows, loss, steps, seed=0)
    assert training.epoch_steps(rows) == 2
    assert [len(ids) for ids in seen] == [128, 17, 128, 17, 128][:steps]
    for first, second in zip(seen[::2], seen[1::2], strict=False):
        assert sorted([*first.tolist(), *second.tolist()]) == rows.tolist()
    assert not network.training


def test_the_last_step_of_a_cosine_hardly_moves() -> None:
    data, kept = open_pool("coloured-digits", limit=300), []
    network = Small()

    def loss(each: torch.Tensor, _: training.Batch) -> torch.Tensor:
        kept.append(F.normalize(network.head.weight.detach().flatten(), dim=0))
        return each.mean()

    training.train(network, data, torch.arange(256), loss, 40, seed=0)
    moves = [float((after - before).norm()) for before, after in pairwise(kept)]
    assert max(moves[-2:]) < max(moves[:10]) / 10
