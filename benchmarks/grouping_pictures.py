"""Draw how groups are learned: decisions of the gate over the epochs, and what each group holds in the end.

    python -m benchmarks.grouping_pictures [--out docs/images] [--seed 0]

grouping-linear.png: the mixture of three linear rules, in the plane of the coordinates that say which rule holds, with
and without scouts. grouping-images.png: photographs of clothes, half of them inverted, by group.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import nn

from benchmarks.planted.grouping import OURS, UNSCOUTED, learn_groups
from benchmarks.planted.problems import PROBLEMS
from benchmarks.planted.training import RECIPES, logits_of

matplotlib.use("Agg")
from matplotlib import pyplot

EPOCHS = (0, 1, 5, 15, 39)
SHOWN = 800
IMAGES = 10


def draw_linear(path: Path, seed: int) -> None:
    """Draw the gate's decisions on test samples at some epochs."""
    problem = PROBLEMS["linear-3"](seed)
    x = problem.test.x[:SHOWN]
    figure, axes = pyplot.subplots(2, len(EPOCHS) + 1, figsize=(14, 5), sharex=True, sharey=True)
    for line, (name, options) in zip(axes, (("no scouts", UNSCOUTED), ("scouts", OURS)), strict=True):
        decisions: dict[int, Any] = {}

        def watch(epoch: int, gate: nn.Module, decisions: dict[int, Any] = decisions) -> None:
            if epoch in EPOCHS:
                decisions[epoch] = logits_of(gate, x).argmax(1)

        torch.manual_seed(seed)
        learn_groups(problem, options, RECIPES[problem.kind], seed, watch)
        pictures = [("planted", problem.test.group[:SHOWN])]
        pictures += [(f"{name}, epoch {epoch}", decisions[epoch]) for epoch in EPOCHS]
        for axis, (title, group) in zip(line, pictures, strict=True):
            axis.scatter(x[:, 0], x[:, 1], c=group, cmap="viridis", vmin=0, vmax=2, s=6)
            axis.set_title(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def draw_images(path: Path, seed: int) -> None:
    """Draw the first test images of each group that the gate sees."""
    problem = PROBLEMS["inverted"](seed)
    torch.manual_seed(seed)
    found = learn_groups(problem, OURS, RECIPES[problem.kind], seed)
    group = logits_of(found.gate, problem.test.x).argmax(1)
    figure, axes = pyplot.subplots(problem.groups, IMAGES, figsize=(IMAGES, 1.2 * problem.groups), squeeze=False)
    for index, line in enumerate(axes):
        own = (group == index).nonzero()[:, 0]
        line[0].set_ylabel(f"expert {index}\n{len(own) / len(group):.0%}", fontsize=9)
        for axis, number in zip(line, own[:IMAGES].tolist(), strict=False):
            axis.imshow(problem.test.x[number, 0], cmap="gray", vmin=problem.test.x.min(), vmax=problem.test.x.max())
        for axis in line:
            axis.set_xticks([])
            axis.set_yticks([])
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    draw_linear(options.out / "grouping-linear.png", options.seed)
    draw_images(options.out / "grouping-images.png", options.seed)


if __name__ == "__main__":
    main()
