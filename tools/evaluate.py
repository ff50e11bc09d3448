"""Train the networks of a genotype from scratch and measure them on the test split."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from lbgnas.cli import guarded, parse, start_torch
from lbgnas.config import EvaluationSettings
from lbgnas.errors import LbgnasError
from lbgnas.ranks import started


def run(argv: Sequence[str]) -> None:
    """Parse, train, measure, print."""
    began = time.perf_counter()
    settings, flags = parse(EvaluationSettings, "evaluation", argv, __doc__, estimated=True, threads=1)
    if flags.resume is None and not settings.genotype:
        raise LbgnasError("--genotype: needed; a file that a search wrote, or the name of a published one (DARTS_V2)")
    device = start_torch(flags.device, flags.threads, several=not flags.estimate)
    import torch

    from lbgnas.data.statistics import described
    from lbgnas.engine.estimate import estimate_evaluation
    from lbgnas.engine.evaluate import Evaluation
    from lbgnas.engine.reporting import Reporter
    from lbgnas.engine.run import resumable
    from lbgnas.engine.run_folder import opened, write_begin
    from lbgnas.genotype import load, resolve
    from lbgnas.report.audit import say_audit
    from lbgnas.report.progress import Console

    if flags.estimate:
        with TemporaryDirectory() as place:
            evaluation = Evaluation(settings, Path(place), device)
            start = time.perf_counter() - began
            print(estimate_evaluation(evaluation).after(start).told(device))
        return

    def name() -> str:
        genotype = load(resolve(settings.genotype))
        return f"evaluate-{genotype.name}"

    with started(device) as ranks:
        folder, settings = ranks.of_first(lambda: opened(EvaluationSettings, settings, flags.resume, flags.out, name))
        console = Console() if ranks.first else Reporter()
        resume = flags.resume is not None
        with resumable(folder):
            evaluation = Evaluation(settings, folder, device, resume=resume, report=console, ranks=ranks)
            if ranks.first:
                write_begin(folder, settings, str(device), torch.get_num_threads(), ranks.count)
            console.say(described(evaluation.data))
            measures = evaluation.run()
        console.say("")
        console.say(measures.to_markdown())
        if ranks.first:
            say_audit(folder, measures.data, measures.fairness, console.say)
        console.say(f"results: {folder}")


if __name__ == "__main__":
    sys.exit(guarded("evaluate", run))
