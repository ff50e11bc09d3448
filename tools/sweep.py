"""Run many searches and evaluations as one NNI experiment, and make their table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lbgnas.cli import Parser, guarded, whole_number
from lbgnas.config import preset_names, read_yaml, to_yaml, validated
from lbgnas.errors import LbgnasError
from lbgnas.sweep.plan import METRICS, SweepSettings, assignment, scalar, trial_settings


def parser() -> Parser:
    """Return the parser."""
    made = Parser(__doc__, "%(prog)s --vary KEY=VALUE,VALUE [--vary ...] [--flag value ...]")

    def add(flag: str, metavar: str, about: str, action: str = "store") -> None:
        made.add_argument(flag, dest=flag, metavar=metavar, action=action, default=None, help=about)

    add("--vary", "KEY=V,V", "values of a search setting, or of evaluation.SETTING; again for each", "append")
    add("--set", "KEY=V", "a setting that all trials share, by the same names; again for each", "append")
    add("--seeds", "N,N", "seeds of every combination (default: 0,1,2)")
    add("--tuner", "{grid,random,tpe}", "grid tries everything; a trial of the others has all seeds (default: grid)")
    add("--trials", "N", "trials of random and tpe")
    add("--metric", "NAME", f"sorts the table, steers tpe: {', '.join(METRICS)} (default: routed_accuracy)")
    add("--preset", "NAME", f"settings to start from: {', '.join(preset_names())} (default: quick)")
    add("--jobs", "N", "trials at a time (default: 1)")
    add("--threads", "N", "CPU threads of a trial (default: 1)")
    add("--out", "FOLDER", "folder of the sweep (default: a new one in runs/)")
    add("--resume", "FOLDER", "folder of a stopped sweep to go on with; finished trials are read, not run again")
    add("--port", "N", "of NNI's page; the first free one from there (default: 8080)")
    about = "let other machines reach NNI's server, which has no password; remote services need it"
    made.add_argument("--listen-everywhere", dest="--listen-everywhere", action="store_true", help=about)
    add("--nni-config", "FILE", "configuration of NNI with another training service (remote, cluster)")
    return made


def settings_of(given: dict[str, object]) -> SweepSettings:
    """Return the settings that the flags describe, every combination checked."""
    values: dict[str, object] = {"vary": {}, "fixed": {}}
    for flag, name in (("--vary", "vary"), ("--set", "fixed")):
        found = {}
        for text in given[flag] or []:  # type: ignore[attr-defined]
            key, value = assignment(text, flag)
            found[key] = [scalar(part) for part in value.split(",")] if name == "vary" else scalar(value)
        values[name] = found
    for name in ("seeds", "tuner", "trials", "metric", "preset", "jobs", "threads"):
        if given[f"--{name}"] is not None:
            values[name] = given[f"--{name}"]
    sweep = validated(SweepSettings, values, "command line")
    if not sweep.vary:
        raise LbgnasError("--vary: needed at least once, as in --vary adaptation_weight=0,0.1,1")
    if sweep.tuner != "grid" and sweep.trials is None:
        raise LbgnasError(f"--trials: needed for --tuner {sweep.tuner}")
    for combination in sweep.combinations:
        trial_settings(sweep, combination, sweep.seeds[0])
    return sweep


def run(argv: Sequence[str]) -> None:
    """Parse, run, print."""
    given = parser().parsed(argv)
    from lbgnas.engine.run_folder import new_folder
    from lbgnas.files import write_text
    from lbgnas.sweep.experiment import run_experiment
    from lbgnas.sweep.table import write_table
    from lbgnas.sweep.trial import SWEEP

    if given["--resume"] is None:
        sweep = settings_of(given)
        folder = new_folder(None if given["--out"] is None else Path(given["--out"]), "sweep")
        write_text(folder / SWEEP, to_yaml(sweep))
    else:
        folder = Path(given["--resume"])
        if not (folder / SWEEP).is_file():
            raise LbgnasError(f"--resume {folder}: no sweep is there (it has no {SWEEP})")
        sweep = validated(SweepSettings, read_yaml(folder / SWEEP), str(folder / SWEEP))
    port = 8080 if given["--port"] is None else whole_number("--port", given["--port"], 1024)
    own = None if given["--nni-config"] is None else Path(given["--nni-config"])
    print(f"{sweep.number_of_trials} trials, {sweep.jobs} at a time; folder {folder}")
    failed = run_experiment(sweep, folder, port, bool(given["--listen-everywhere"]), own)
    print(write_table(sweep, folder))
    if failed:
        raise LbgnasError(f"{failed} trials failed; their output is in {folder / 'nni'}; --resume tries them again")


if __name__ == "__main__":
    sys.exit(guarded("sweep", run))
