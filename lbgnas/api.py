"""The main job as functions: search, evaluate, draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lbgnas.config import EvaluationSettings, SearchSettings, load_preset, merged, validated
from lbgnas.engine.evaluate import Evaluation
from lbgnas.engine.machine import prepare_cpu
from lbgnas.engine.measures import Measures
from lbgnas.engine.reporting import Reporter
from lbgnas.engine.run_folder import new_folder, write_begin
from lbgnas.engine.search import Search, SearchResult
from lbgnas.report.audit import say_audit


def search(
    out: str | Path,
    *,
    preset: str = "quick",
    device: str | torch.device = "cpu",
    report: Reporter | None = None,
    **settings: Any,
) -> SearchResult:
    """Search architectures and groups as `tools/search.py` does.

    Args:
        out: folder of the run, new or empty.
        preset: settings to start from.
        device: where to compute.
        report: receives the progress; silent by default.
        settings: fields of `SearchSettings`, nested ones as dicts.

    Raises:
        LbgnasError: for settings, data or a folder that do not work, and for non-finite losses.
    """
    prepare_cpu()
    wanted = validated(SearchSettings, merged(load_preset(preset, "search", settings.get("base")), settings), "search")
    folder = new_folder(Path(out), "")
    run = Search(wanted, folder, torch.device(device), report=report)
    write_begin(folder, wanted, str(device), torch.get_num_threads())
    return run.run()


def evaluate(
    genotype: str | Path,
    out: str | Path,
    *,
    preset: str = "quick",
    device: str | torch.device = "cpu",
    report: Reporter | None = None,
    **settings: Any,
) -> Measures:
    """Train a genotype's networks and measure them on the test split as `tools/evaluate.py` does.

    Args:
        genotype: a file, or the name of a published one.
        out: folder of the run, new or empty.
        preset: settings to start from.
        device: where to compute.
        report: receives the progress; silent by default.
        settings: fields of `EvaluationSettings`, nested ones as dicts.

    Raises:
        LbgnasError: for settings, files, data or a folder that do not work, and for non-finite losses.
    """
    prepare_cpu()
    values = merged(load_preset(preset, "evaluation"), {**settings, "genotype": str(genotype)})
    wanted = validated(EvaluationSettings, values, "evaluate")
    folder = new_folder(Path(out), "")
    run = Evaluation(wanted, folder, torch.device(device), report=report)
    write_begin(folder, wanted, str(device), torch.get_num_threads())
    measures = run.run()
    say_audit(folder, measures.data, measures.fairness, lambda _: None)
    return measures
