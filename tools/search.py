"""Search K architectures and the gate that routes samples to them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lbgnas.cli import guarded, parse, start_torch
from lbgnas.config import SearchSettings, read_yaml, to_yaml, validated


def run(argv: Sequence[str]) -> None:
    """Parse, search, print."""
    settings, flags = parse(SearchSettings, "search", argv, __doc__)
    device = start_torch(flags.device, flags.threads)
    import torch

    from lbgnas.data.statistics import described
    from lbgnas.engine.run_folder import CONFIG, existing_folder, new_folder, write_environment
    from lbgnas.engine.search import Search
    from lbgnas.files import write_text
    from lbgnas.report.progress import Console

    if flags.resume is not None:
        folder = existing_folder(flags.resume)
        settings = validated(SearchSettings, read_yaml(folder / CONFIG), str(folder / CONFIG))
    else:
        name = settings.data.partition(":")[0]
        folder = new_folder(flags.out, f"search-{name}-{settings.base}-{settings.grouping}-seed{settings.seed}")
    console = Console()
    search = Search(settings, folder, device, resume=flags.resume is not None, report=console)
    if flags.resume is None:
        write_text(folder / CONFIG, to_yaml(settings))
    write_environment(folder, str(device), torch.get_num_threads())
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
