from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from lbgnas.engine.checkpoint import FORMAT, VERSION
from tests.processes import assert_close
from tests.small import EVALUATE, ROOT, SEARCH, metrics, run


def torchrun(tool, *arguments, count=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return subprocess.Popen(
        [*command, str(ROOT / "tools" / f"{tool}.py"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def records(folder):
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def wait_for(folder, count, process):
    until = time.monotonic() + 120
    while records(folder) < count and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)


def workers(process):
    """Return the processes that torchrun started, by rank."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    found = {}
    for number in map(int, listed.stdout.split()):
        with open(f"/proc/{number}/environ") as file:
            place = dict(entry.partition("=")[::2] for entry in file.read().split("\0"))
        found[int(place["RANK"])] = number
    return found


def own_lines(error, tool):
    return [line for line in error.splitlines() if line.startswith(f"{tool}:")]


def state(folder, path):
    """Return the checkpoint of a run, without what names the place where it ran."""
    import torch

    content = torch.load(path / "checkpoint.pt", weights_only=True)
    assert (content["format"], content["version"]) == (FORMAT, VERSION)
    del content["identity"]["settings"]
    return content


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds processes by /proc")
def test_a_search_lives_through_a_death_and_other_numbers_of_processes(whole, tmp_path):
    folder, _, _ = whole
    place = tmp_path / "run"
    process = torchrun("search", "--base", "pcdarts", "--grouping", "dalbg", *SEARCH, "--out", place)
    wait_for(place, 1, process)
    os.kill(workers(process)[1], signal.SIGKILL)
    died = time.monotonic()
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - died < 60
    (sentence,) = own_lines(error, "search")
    assert re.search(f"another process .*died.*--resume {place}", sentence), error
    assert "tools/search.py" not in error.replace("tools/search.py FAILED", ""), error

    alone = subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "search.py"), "--resume", str(place)], stdout=subprocess.DEVNULL
    )
    wait_for(place, 2, alone)
    alone.send_signal(signal.SIGTERM)
    alone.wait(timeout=60)

    process = torchrun("search", "--resume", place)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert_close(metrics(place), metrics(folder / "search"))
    assert_close(state(folder, place), state(folder, folder / "search"))
    ours, theirs = (json.loads((where / "genotype.json").read_text()) for where in (place, folder / "search"))
    assert ours["experts"] == theirs["experts"]


def test_an_evaluation_is_stopped_and_gone_on_with_by_other_numbers_of_processes(whole, tmp_path):
    folder, _, _ = whole
    place = tmp_path / "run"
    process = torchrun(
        "evaluate", "--genotype", folder / "search" / "genotype.json", *EVALUATE, "--epochs", 12, "--out", place
    )
    wait_for(place, 1, process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert len(own_lines(error, "evaluate")) <= 1, error
    assert process.returncode != 0
    once = tmp_path / "once"
    shutil.copytree(place, once)
    assert run("evaluate", "--resume", once).returncode == 0
    process = torchrun("evaluate", "--resume", place)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert_close(state(folder, once), state(folder, place))
    for name in ("results.json", "predictions.csv", "expert0.safetensors", "expert1.safetensors"):
        assert (once / name).read_bytes() == (place / name).read_bytes(), name
    assert sorted(record["epoch"] for record in metrics(place)) == list(range(24))


def test_more_processes_than_experts_are_refused(tmp_path):
    process = torchrun("search", *SEARCH, "--out", tmp_path / "run")
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0
    assert own_lines(error, "search") == [
        "search: torchrun: 2 processes for 1 expert, at most one for each is allowed; use --nproc-per-node 1"
    ]
    assert not list((tmp_path / "run").iterdir())
