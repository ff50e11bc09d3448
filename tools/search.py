"""Search K architectures and the gate that routes samples to them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from lbgnas.cli import guarded, parse, start_torch
from lbgnas.config import SearchSettings
from lbgnas.ranks import started


def run(argv: Sequence[str]) -> None:
    """Parse, search, print."""
    began = time.perf_counter()
    settings, flags = parse(SearchSettings, "search", argv, __doc__, estimated=True, threads=1)
    device = start_torch(flags.device, flags.threads, several=not flags.estimate)
    import torch

    from lbgnas.data.statistics import described
    from lbgnas.engine.estimate import estimate_search
    from lbgnas.engine.reporting import Reporter
    from lbgnas.engine.run import resumable
    from lbgnas.engine.run_folder import opened, write_begin
    from lbgnas.engine.search import Search
    from lbgnas.report.progress import Console

    if flags.estimate:
        with TemporaryDirectory() as place:
            search = Search(settings, Path(place), device)
            start = time.perf_counter() - began
            print(search.summary())
            print(estimate_search(search).after(start).told(device))
        return

    def name() -> str:
        name = settings.data.partition(":")[0]
        return f"search-{name}-{settings.base}-{settings.grouping}-seed{settings.seed}"

    with started(device) as ranks:
        folder, settings = ranks.of_first(lambda: opened(SearchSettings, settings, flags.resume, flags.out, name))
        console = Console() if ranks.first else Reporter()
        with resumable(folder):
            search = Search(settings, folder, device, resume=flags.resume is not None, report=console, ranks=ranks)
            if ranks.first:
                write_begin(folder, settings, str(device), torch.get_num_threads(), ranks.count)
            console.say(described(search.data))
            console.say(search.summary())
            result = search.run()
    for index, cell in enumerate(result.cells):
        console.say(f"expert {index}: {cell.short()}")
    for warning in search.warnings():
        console.say(f"note: {warning}")
    console.say(f"validation accuracy of the supernets {result.validation_accuracy:.4f}")
    console.say(f"genotype: {result.genotype}\nnext: python tools/evaluate.py --genotype {result.genotype}")


if __name__ == "__main__":
    sys.exit(guarded("search", run))
