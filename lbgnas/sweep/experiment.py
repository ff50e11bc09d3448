"""A sweep as an HPO experiment of NNI 3.0: started, watched, stopped; nothing is left running."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from lbgnas.engine.interrupts import Interrupted
from lbgnas.errors import LbgnasError
from lbgnas.sweep.plan import SweepSettings

GUARD = Path(__file__).parent / "node_guard.cjs"
TUNERS = {"grid": "GridSearch", "random": "Random", "tpe": "TPE"}
POLL_SECONDS = 2.0
START_TRIES = 60
"""Of asking NNI's server, a second apart, whether it is up; NNI's own 3 are too few on a busy machine."""


def configuration(sweep: SweepSettings, folder: Path, own: Path | None) -> Any:
    """Return NNI's configuration; a user's file of one gives everything that the sweep does not set itself.

    Raises:
        LbgnasError: if NNI cannot be used, or does not understand the file.
    """
    try:
        from nni.experiment import ExperimentConfig
    except ImportError as error:
        raise LbgnasError(
            f"tools/sweep.py: needs NNI 3.0 ({error}); install it with pip install 'lbgnas[nni]'"
        ) from None
    try:
        config: Any = ExperimentConfig("local") if own is None else ExperimentConfig.load(own)
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise LbgnasError(f"--nni-config {own}: is no configuration of NNI ({error})") from None
    config.experiment_name = config.experiment_name or "lbgnas sweep"
    config.search_space = sweep.search_space
    config.trial_command = f"{sys.executable} -m lbgnas.sweep.trial {folder.resolve()}"
    config.trial_code_directory = str(Path(__file__).resolve().parents[2])
    config.trial_concurrency = sweep.jobs
    config.max_trial_number = sweep.number_of_trials
    config.experiment_working_directory = str(folder.resolve() / "nni")
    config.tuner.name = TUNERS[sweep.tuner]
    if sweep.tuner != "grid":
        config.tuner.class_args = {"seed": sweep.seeds[0]}
        if sweep.tuner == "tpe":
            lower = sweep.metric in ("dp", "deo_sum")
            config.tuner.class_args["optimize_mode"] = "minimize" if lower else "maximize"
    if own is None:
        config.training_service.use_active_gpu = True
    return config


def free_port(wanted: int) -> int:
    """Return the first free port from `wanted` on.

    Raises:
        LbgnasError: if none of the next hundred is free.
    """
    for port in range(wanted, min(wanted + 100, 65536)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise LbgnasError(f"--port {wanted}: none of the ports from there to {wanted + 99} is free")


@contextmanager
def _guarded_node(everywhere: bool) -> Iterator[None]:
    """Make NNI's server listen on this machine only, unless told otherwise."""
    before = os.environ.get("NODE_OPTIONS")
    if not everywhere:
        os.environ["NODE_OPTIONS"] = f"{before or ''} --require {GUARD}".strip()
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("NODE_OPTIONS", None)
        else:
            os.environ["NODE_OPTIONS"] = before


@contextmanager
def _patient_start() -> Iterator[None]:
    """Wait longer than NNI does for its server to answer, before it is sent the experiment."""
    from nni.experiment import launcher

    kept = launcher._check_rest_server
    launcher._check_rest_server = partial(kept, retry=START_TRIES)
    try:
        yield
    finally:
        launcher._check_rest_server = kept


@contextmanager
def _signals_raise() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted("stopped", number)

    kept = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def run_experiment(
    sweep: SweepSettings,
    folder: Path,
    port: int,
    everywhere: bool = False,
    own: Path | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Run all trials and return how many failed.

    Args:
        sweep: what is varied.
        folder: of the sweep; NNI keeps its own files in its folder nni.
        port: of NNI's page, or the first free one after it.
        everywhere: listen on all interfaces, without a password.
        own: NNI configuration of the user: a remote or cluster training service.
        say: takes lines for the user.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM; trials are stopped and go on in a resumed sweep.
        LbgnasError: if NNI cannot be used or its server fails.
    """
    config = configuration(sweep, folder, own)
    logging.getLogger("nni").setLevel(logging.WARNING)
    from nni.experiment import Experiment

    experiment: Any = Experiment(config)
    port = free_port(port)
    failed = 0
    with _signals_raise(), _guarded_node(everywhere):
        try:
            with _patient_start():
                experiment.start(port)
            say(f"NNI's page: http://127.0.0.1:{port}")
            failed = _watch(experiment, sweep.number_of_trials, say)
        except Interrupted as stopped:
            raise Interrupted(f"stopped; go on with --resume {folder}", stopped.signal_number) from None
        except (RuntimeError, OSError) as error:  # those of requests are OSErrors
            raise LbgnasError(f"NNI: {error}; its log is in {folder / 'nni'}") from None
        finally:
            node = getattr(experiment, "_proc", None)
            experiment.stop()
            if node is not None and node.poll() is None:
                node.kill()
                node.wait()
    return failed


def _watch(experiment: Any, total: int, say: Callable[[str], None]) -> int:
    """Wait for the end, tell each trial that ends, and return how many failed."""
    told: set[str] = set()
    failed, started = 0, time.monotonic()
    while True:
        status = experiment.get_status()
        for job in experiment.list_trial_jobs():
            if job.trialJobId in told or job.status in ("WAITING", "RUNNING", "UNKNOWN"):
                continue
            told.add(job.trialJobId)
            failed += job.status != "SUCCEEDED"
            left = (time.monotonic() - started) / len(told) * (total - len(told))
            what = job.hyperParameters[0].parameters if job.hyperParameters else {}
            named = ", ".join(f"{name}={value}" for name, value in what.items())
            say(f"{len(told)}/{total} {job.status.lower()}: {named}; about {left / 60:.1f} min left")
        if status in ("DONE", "STOPPED", "ERROR"):
            return failed
        time.sleep(POLL_SECONDS)
