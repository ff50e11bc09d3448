"""Does --estimate tell the truth? Estimate, run, and compare time and memory for three settings.

    python -m benchmarks.estimates [--threads 1] [--rounds 3]

A shared machine changes its speed between the estimate and the run. So the run's time is also told in CPU time, against
the estimate times the part of the time in which the estimating process had its CPU: meant for one thread.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
CASES = {
    "search, pcdarts, dalbg": ("search", ["--base", "pcdarts", "--grouping", "dalbg", "--epochs", "6"]),
    "search, darts, none, 16 px": (
        "search",
        ["--base", "darts", "--image-size", "16", "--limit", "400", "--epochs", "5"],
    ),
    "evaluation, DARTS_V2": ("evaluate", ["--genotype", "DARTS_V2", "--epochs", "10"]),
}


class Run(NamedTuple):
    """What a tool printed, its seconds, those on the CPU, its peak memory in GiB."""

    text: str
    seconds: float
    cpu: float
    peak: float


def run(tool: str, arguments: list[str]) -> Run:
    """Run a tool to its end."""
    command = [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *arguments]
    with tempfile.TemporaryFile("w+") as said:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        said.seek(0)
        text = said.read()
    if status:
        raise SystemExit(f"{' '.join(command)}\n{text}")
    return Run(text, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    columns = ("setting", "estimate s", "run s", "ratio", "ratio in CPU time", "estimate GiB", "run GiB")
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for name, (tool, arguments) in list(CASES.items()) * options.rounds:
        arguments = [*arguments, "--threads", options.threads]
        first = run(tool, [*arguments, "--estimate"])
        found = re.search(r"estimate: (\d+) h (\d+) min (\d+) s.*process ([\d.]+) GiB", first.text)
        assert found is not None, first.text
        hours, minutes, rest = (int(found[index]) for index in (1, 2, 3))
        expected = 3600 * hours + 60 * minutes + rest
        with tempfile.TemporaryDirectory() as folder:
            whole = run(tool, [*arguments, "--out", str(Path(folder) / "run")])
        on_cpu = expected * first.cpu / first.seconds / whole.cpu
        print(
            f"| {name} | {expected} | {whole.seconds:.0f} | {expected / whole.seconds:.2f} | {on_cpu:.2f} "
            f"| {found[4]} | {whole.peak:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
