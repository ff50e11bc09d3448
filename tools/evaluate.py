"""Train the networks of a genotype from scratch and measure them on the test split."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lbgnas.cli import guarded, parse, settings_of, start_torch
from lbgnas.config import EvaluationSettings, read_yaml, to_yaml, validated
from lbgnas.errors import LbgnasError


class EvaluationOptions(EvaluationSettings):
    """Evaluate a genotype: each expert trains on the samples the gate gives it; the test split is opened once."""

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
    """Parse, train, measure, print."""
    options = parse(EvaluationOptions, "evaluation", argv)
    if options.resume is None and not options.genotype:
        raise LbgnasError("--genotype: needed; a file that a search wrote, or the name of a published one (DARTS_V2)")
    device = start_torch(options.device, options.threads)
    import torch

    from lbgnas.engine.evaluate import Evaluation
    from lbgnas.engine.run_folder import CONFIG, existing_folder, new_folder, write_environment
    from lbgnas.files import write_text
    from lbgnas.genotype import load, resolve
    from lbgnas.report.progress import Console

    if options.resume is not None:
        folder = existing_folder(options.resume)
        settings = validated(EvaluationSettings, read_yaml(folder / CONFIG), str(folder / CONFIG))
    else:
        settings = settings_of(options, EvaluationSettings)
        genotype = load(resolve(settings.genotype))
        folder = new_folder(options.out, f"evaluate-{genotype.name}")
    console = Console()
    evaluation = Evaluation(settings, folder, device, resume=options.resume is not None, report=console)
    if options.resume is None:
        write_text(folder / CONFIG, to_yaml(settings))
    write_environment(folder, str(device), torch.get_num_threads())
    measures = evaluation.run()
    console.say("")
    console.say(measures.to_markdown())
    console.say(f"results: {folder}")


if __name__ == "__main__":
    sys.exit(guarded("evaluate", run))
