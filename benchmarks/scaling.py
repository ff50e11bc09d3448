"""What does a search step cost, in exact counts? Operations and multiply-accumulates against K, cells, channels, batch.

    python -m benchmarks.scaling [--json FILE]

Operations, views left out, of a whole LBG step with exact hypergradients: levels 1 to 3, hypergradients, commit.
Multiply-accumulates (convolutions, products of matrices) of one sample's pass through its expert, forward alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import subjects
from benchmarks.counts import count_operations
from lbgnas.grouping.hypergradient import Exact

BASE = {"experts": 2, "cells": 5, "channels": 16, "size": 16, "batch": 16}
VARIED = {"experts": (1, 4), "cells": (3, 8), "channels": (8, 32), "size": (32,), "batch": (8, 32)}


def cost(setting: dict[str, int]) -> tuple[int, float]:
    """Return the operations of a step and the millions of multiply-accumulates of a sample."""
    more = {name: value for name, value in setting.items() if name != "experts"}
    step = subjects._learner(setting["experts"], Exact(), grouped=True, **more)
    step()
    operations = sum(count_operations(step).values())
    net = subjects.supernet(cells=setting["cells"], channels=setting["channels"])
    images = torch.randn(setting["batch"], 3, setting["size"], setting["size"])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(images)
    return operations, counter.get_total_flops() / 2 / 1e6 / setting["batch"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = [BASE, *({**BASE, name: value} for name, values in VARIED.items() for value in values)]
    rows = []
    print("| " + " | ".join(BASE) + " | operations a step | million MACs a sample |\n|" + " --- |" * (len(BASE) + 2))
    for setting in settings:
        operations, macs = cost(setting)
        rows.append({**setting, "operations": operations, "million_macs": macs})
        cells = " | ".join(f"**{value}**" if value != BASE[name] else str(value) for name, value in setting.items())
        print(f"| {cells} | {operations:,} | {macs:,.0f} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
