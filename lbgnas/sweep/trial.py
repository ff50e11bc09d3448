"""One trial: a search, its evaluation, a row of the table. Run by NNI as `python -m lbgnas.sweep.trial FOLDER`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lbgnas.config import EvaluationSettings, SearchSettings, Settings, read_yaml, validated
from lbgnas.errors import LbgnasError
from lbgnas.files import write_text
from lbgnas.sweep.plan import SweepSettings, trial_name, trial_settings

SWEEP, TRIALS, ROW = "sweep.yaml", "trials", "row.json"


def run_trial(folder: Path, sweep: SweepSettings, combination: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Search and evaluate, going on where a stopped trial ended, and return the row; a finished one is only read."""
    place = folder / TRIALS / trial_name(combination, seed)
    row = place / ROW
    if row.exists():
        found: dict[str, Any] = json.loads(row.read_text(encoding="utf-8"))
        return found
    import torch

    from lbgnas.engine.evaluate import Evaluation
    from lbgnas.engine.machine import prepare_cpu
    from lbgnas.engine.run_folder import METRICS, opened, read_metrics, write_begin
    from lbgnas.engine.search import Search

    prepare_cpu()
    torch.set_num_threads(sweep.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def start(run: Any, schema: type[Settings], settings: Settings, name: str) -> Any:
        begun = place / name if (place / name / "config.yaml").exists() else None
        where, known = opened(schema, settings, begun, place / name, str)
        started = run(known, where, device, resume=begun is not None)
        write_begin(where, known, str(device), torch.get_num_threads())
        return started.run()

    settings, rest = trial_settings(sweep, combination, seed)
    found_cells = start(Search, SearchSettings, settings, "search")
    evaluation = validated(EvaluationSettings, {**rest, "genotype": str(found_cells.genotype)}, "sweep")
    measures = start(Evaluation, EvaluationSettings, evaluation, "evaluate")
    routed = measures.fairness.get("routed")
    shown = {} if routed is None else {name: routed.metrics[name] for name in ("worst_group_accuracy", "dp", "deo_sum")}
    seconds = [sum(r["seconds"] for r in read_metrics(place / name / METRICS)) for name in ("search", "evaluate")]
    result = {
        **combination,
        "seed": seed,
        "routed_accuracy": measures.routed,
        "mixture_accuracy": measures.mixture,
        **shown,
        "parameters": measures.parameters,
        "search_minutes": seconds[0] / 60,
        "minutes": sum(seconds) / 60,
    }
    write_text(row, json.dumps(result, indent=1))
    return result


def main() -> None:
    """Take parameters from NNI, run, report."""
    import nni

    folder = Path(sys.argv[1])
    sweep = validated(SweepSettings, read_yaml(folder / SWEEP), str(folder / SWEEP))
    given = dict(nni.get_next_parameter())
    seeds = [int(given.pop("seed"))] if "seed" in given else list(sweep.seeds)
    values = []
    for seed in seeds:
        row = run_trial(folder, sweep, given, seed)
        if sweep.metric not in row:
            raise LbgnasError(f"metric {sweep.metric}: the data has no sensitive attribute; use routed_accuracy")
        values.append(float(row[sweep.metric]))
        nni.report_intermediate_result(values[-1])
    nni.report_final_result(sum(values) / len(values))


if __name__ == "__main__":
    main()
