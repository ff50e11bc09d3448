"""The smallest search and evaluation that go through every part, and how to start the tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
SEARCH = ["--limit", "40", "--batch-size", "10", "--epochs", "3", "--network.cells", "3", "--network.channels", "8"]
SEARCH += ["--gate.scouts", "2"]  # both experts get samples
EVALUATE = ["--epochs", "2", "--batch-size", "16", "--network.cells", "3", "--network.channels", "4", "--layers", "3"]


def command(tool: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *map(str, arguments)]


def run(
    tool: str, *arguments: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    return subprocess.run(
        command(tool, *arguments), capture_output=True, text=True, cwd=cwd, env=environment, timeout=300
    )


def assert_same(left, right, path="state"):
    assert type(left) is type(right), path
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), path
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), path
        for key in left:
            assert_same(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), path
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f"{path}[{index}]")
    else:
        assert left == right, path


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
