"""A sweep through NNI's own server: it listens on this machine only, runs its trials, and is gone afterwards."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import nni_node
import psutil

from lbgnas.sweep.experiment import GUARD
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


def test_a_sweep_runs_its_trials_and_leaves_nothing_running(tmp_path):
    folder = tmp_path / "sweep"
    fixed = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    done = run("sweep", "--vary", "adaptation_weight=0.1", "--seeds", "0", *fixed, "--out", folder, "--port", 18080)
    assert done.returncode == 0, done.stderr
    (row,) = (json.loads(path.read_text()) for path in folder.glob("trials/*/row.json"))
    assert f"| 0.1 | 1 | {row['routed_accuracy']:.4f} |" in done.stdout
    left = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"]]
    assert not [command for command in left if str(folder) in " ".join(command)]
