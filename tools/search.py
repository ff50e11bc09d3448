"""Search K architectures and the gate that routes samples to them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lbgnas.cli import guarded, parse, settings_of, start_torch
from lbgnas.config import SearchSettings, read_yaml, to_yaml, validated


class SearchOptions(SearchSettings):
    """Search architectures: experts, gate and grouping are learned together; ends in a genotype file."""

    preset: Literal["quick", "paper-cifar"] = "quick"
    """Settings to start from; --config and flags win over it."""
    config: Path | None = None
    """YAML file of settings, such as config.yaml of a run folder; flags win over it."""
    out: Path | None = None
    """Folder of the run; by default a new one in runs/."""
    resume: Path | None = None
    """Folder of a stopped run to go on with."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int | None = None
    """CPU threads; by default all."""


def run(argv: Sequence[str]) -> None:
    """Parse, search, print."""
    options = parse(SearchOptions, "search", argv)
    device = start_torch(options.device, options.threads)
    import torch

    from lbgnas.engine.run_folder import CONFIG, existing_folder, new_folder, write_environment
    from lbgnas.engine.search import Search
    from lbgnas.files import write_text
    from lbgnas.report.progress import Console

    if options.resume is not None:
        folder = existing_folder(options.resume)
        settings = validated(SearchSettings, read_yaml(folder / CONFIG), str(folder / CONFIG))
    else:
        settings = settings_of(options, SearchSettings)
        name = settings.data.partition(":")[0]
        folder = new_folder(options.out, f"search-{name}-{settings.base}-{settings.grouping}-seed{settings.seed}")
    console = Console()
    search = Search(settings, folder, device, resume=options.resume is not None, report=console)
    if options.resume is None:
        write_text(folder / CONFIG, to_yaml(settings))
    write_environment(folder, str(device), torch.get_num_threads())
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
