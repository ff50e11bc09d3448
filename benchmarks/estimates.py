"""Does --estimate tell the truth? Estimate, run, and compare time and memory for three settings.

    python -m benchmarks.estimates [--threads 1]

A shared machine changes its speed between the estimate and the run: look at several tries.
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

ROOT = Path(__file__).parent.parent
CASES = {
    "search, pcdarts, dalbg": ("search", ["--base", "pcdarts", "--grouping", "dalbg", "--epochs", "6"]),
    "search, darts, none, 16 px": (
        "search",
        ["--base", "darts", "--image-size", "16", "--limit", "400", "--epochs", "5"],
    ),
    "evaluation, DARTS_V2": ("evaluate", ["--genotype", "DARTS_V2", "--epochs", "10"]),
}


def run(tool: str, arguments: list[str]) -> tuple[str, float, float]:
    """Run a tool; return what it printed, its seconds and its peak memory in GiB."""
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
    return text, seconds, used.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1")
    options = parser.parse_args()
    print("| setting | estimate s | run s | ratio | estimate GiB | run GiB |\n|" + " --- |" * 6)
    for name, (tool, arguments) in CASES.items():
        arguments = [*arguments, "--threads", options.threads]
        said, _, _ = run(tool, [*arguments, "--estimate"])
        found = re.search(r"estimate: (\d+) h (\d+) min (\d+) s.*process ([\d.]+) GiB", said)
        assert found is not None, said
        hours, minutes, rest = (int(found[index]) for index in (1, 2, 3))
        expected = 3600 * hours + 60 * minutes + rest
        with tempfile.TemporaryDirectory() as folder:
            _, seconds, peak = run(tool, [*arguments, "--out", str(Path(folder) / "run")])
        print(
            f"| {name} | {expected} | {seconds:.0f} | {expected / seconds:.2f} | {found[4]} | {peak:.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
