"""The smallest search and evaluation that go through every part, and how to start the tools."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SEARCH = ["--limit", "40", "--batch-size", "10", "--epochs", "3", "--network.cells", "3", "--network.channels", "8"]
EVALUATE = ["--epochs", "2", "--batch-size", "16", "--network.cells", "3", "--network.channels", "4", "--layers", "3"]


def command(tool: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *map(str, arguments)]


def run(tool: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(tool, *arguments), capture_output=True, text=True, cwd=cwd, env=environment, timeout=300
    )
