"""A sweep through NNI's own server: it listens on this machine only, runs its trials, and is gone afterwards."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import nni_node
import psutil
import pytest
import requests
from nni.experiment import Experiment

from lbgnas.errors import LbgnasError
from lbgnas.sweep.experiment import GUARD, run_experiment
from lbgnas.sweep.plan import SweepSettings
from tests.small import run
from tests.unit.test_sweep import SMALL


def addresses(*options):
    script = "s=require('net').createServer().listen(0,()=>{console.log(s.address().address);s.close()})"
    node = Path(nni_node.__file__).parent / "node"
    done = subprocess.run([node, *options, "-e", script], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_the_guard_keeps_a_server_to_this_machine():
    assert addresses() in ("::", "0.0.0.0")
    assert addresses("--require", str(GUARD)) == "127.0.0.1"


LATE = """
const net = require("net");
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...where) {
  setTimeout(() => listen.call(this, ...where), 6000);
  return this;
};
"""


def test_a_sweep_waits_for_a_late_server_runs_its_trials_and_leaves_nothing_running(tmp_path):
    folder = tmp_path / "sweep"
    late = tmp_path / "late.cjs"
    late.write_text(LATE)
    fixed = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    arguments = ["--vary", "adaptation_weight=0.1", "--seeds", "0", *fixed, "--out", folder, "--port", 18080]
    done = run("sweep", *arguments, environment={"NODE_OPTIONS": f"--require {late}"})
    assert done.returncode == 0, done.stderr
    (row,) = (json.loads(path.read_text()) for path in folder.glob("trials/*/row.json"))
    assert f"| 0.1 | 1 | {row['routed_accuracy']:.4f} |" in done.stdout
    left = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"]]
    assert not [command for command in left if str(folder) in " ".join(command)]


def test_a_server_that_does_not_answer_is_one_sentence(tmp_path, monkeypatch):
    def start(*_):
        raise requests.ConnectionError("no answer")

    monkeypatch.setattr(Experiment, "start", start)
    with pytest.raises(LbgnasError, match="NNI: no answer; its log is in"):
        run_experiment(SweepSettings(vary={"num_experts": (2,)}), tmp_path, 18090)
