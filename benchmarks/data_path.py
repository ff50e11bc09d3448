"""How much of a search step is waiting for data? Print the share for the quick and the paper-cifar preset.

    python -m benchmarks.data_path [--steps 6] [--threads 1]

Batches are made (read, normalised, augmented) without steps, then with them. paper-cifar runs on clothes of 32 x 32
pixels and three channels: CIFAR's form.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import torch

from lbgnas.config import SearchSettings, load_preset, merged, validated
from lbgnas.engine.search import Search

CASES = {
    "quick": ("pcdarts", {}),
    "paper-cifar": ("pcdarts", {"data": "coloured-fashion-mnist", "image_size": 32, "limit": 4000}),
}


def shares(preset: str, steps: int, folder: Path) -> tuple[float, float]:
    """Return the seconds of making a pair of batches, and of a whole step with them."""
    base, more = CASES[preset]
    given = {"base": base, "grouping": "dalbg", **more}
    search = Search(validated(SearchSettings, merged(load_preset(preset, "search", base), given), preset), folder)
    levels = search.plan.levels(search.plan.warmup)
    search.plan.prepare(search.learner.experts, 0)
    for pair in itertools.islice(search.batches(0, 0), 1):
        search.take_step(*pair, levels=levels)
    started = time.perf_counter()
    made = sum(1 for _ in itertools.islice(search.batches(1, 0), steps))
    data = (time.perf_counter() - started) / made
    started = time.perf_counter()
    for pair in itertools.islice(search.batches(2, 0), made):
        search.take_step(*pair, levels=levels)
    return data, (time.perf_counter() - started) / made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for preset in CASES:
        with tempfile.TemporaryDirectory() as folder:
            data, step = shares(preset, options.steps, Path(folder))
        print(f"{preset}: {1000 * data:.1f} ms of {1000 * step:.0f} ms a step are data: {data / step:.1%}")


if __name__ == "__main__":
    main()
