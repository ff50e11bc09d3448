"""The folder of a run: settings, environment, metrics, checkpoint, results."""

from __future__ import annotations

import itertools
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Container, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from lbgnas.config import Schema, Settings, read_yaml, to_yaml, validated
from lbgnas.errors import LbgnasError
from lbgnas.files import write_text

CONFIG, CHECKPOINT, METRICS, SPACE, SPLIT, GENOTYPE = (
    "config.yaml",
    "checkpoint.pt",
    "metrics.jsonl",
    "space.yaml",
    "split.json",
    "genotype.json",
)


def new_folder(wanted: Path | None, default: str) -> Path:
    """Make the folder of a new run: the wanted one, or runs/DEFAULT with the first free number.

    Raises:
        LbgnasError: if the wanted one holds a run already, or cannot be made.
    """
    if wanted is None:
        number = 1
        while (folder := Path("runs") / (default if number == 1 else f"{default}-{number}")).exists():
            number += 1
    else:
        folder = wanted
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise LbgnasError(
                f"--out {folder}: is not empty; choose another, or continue that run with --resume {folder}"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LbgnasError(f"--out {folder}: cannot be made ({error.strerror})") from None
    return folder


def existing_folder(folder: Path) -> Path:
    """Return the folder of a run to resume.

    Raises:
        LbgnasError: if no run is there.
    """
    if not (folder / CONFIG).is_file():
        raise LbgnasError(f"--resume {folder}: no run is there (it has no {CONFIG})")
    return folder


def opened(
    schema: type[Schema], settings: Schema, resume: Path | None, out: Path | None, default: Callable[[], str]
) -> tuple[Path, Schema]:
    """Return the folder of a run and its settings: those in the folder if it is gone on with, else the given ones.

    Args:
        schema: of the settings.
        settings: of a new run.
        resume: folder of a stopped run.
        out: folder of a new one.
        default: names a new one that was not named.

    Raises:
        LbgnasError: if the folder cannot be used, or its settings cannot be read.
    """
    if resume is None:
        return new_folder(out, default()), settings
    path = existing_folder(resume) / CONFIG
    return resume, validated(schema, read_yaml(path), str(path))


def write_begin(folder: Path, settings: Settings, device: str, threads: int, processes: int = 1) -> None:
    """Write the settings of a new run, and the environment of any, into its folder."""
    if not (folder / CONFIG).exists():
        write_text(folder / CONFIG, to_yaml(settings))
    _write_environment(folder, device, threads, processes)


def _write_environment(folder: Path, device: str, threads: int, processes: int) -> None:
    names = ("lbgnas", "torch", "torchvision", "numpy", "scikit-learn")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    content = {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "revision": _revision(),
        "device": device,
        "threads": threads,
        "processes": processes,
    }
    write_text(folder / "environment.json", json.dumps(content, indent=1))


def _revision() -> str | None:
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


class Metrics:
    """metrics.jsonl and TensorBoard events, one record an epoch; those of epochs to be repeated are taken back.

    Args:
        folder: of the run.
        done: numbers of the records that stay.
    """

    def __init__(self, folder: Path, done: Container[int]) -> None:
        self.path = folder / METRICS
        kept = [line for line in read_metrics(self.path) if line["epoch"] in done]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        from torch.utils.tensorboard import SummaryWriter

        first = next(number for number in itertools.count() if number not in done)
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first)
        for line in kept:
            if line["epoch"] > first:  # hidden by the purge
                self._show(line)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one epoch's record, flushed to disk."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._show(record)
        self.writer.flush()

    def _show(self, record: Mapping[str, Any]) -> None:
        for name, value in _scalars(record):
            self.writer.add_scalar(name, value, record["epoch"])
        for expert, text in enumerate(record.get("genotypes", ())):
            self.writer.add_text(f"genotype/{expert}", text, record["epoch"])

    def close(self) -> None:
        """Close the events."""
        self.writer.close()


class Unwritten(Metrics):
    """The metrics of a process that does not write the run folder."""

    def __init__(self) -> None:
        pass

    def write(self, record: Mapping[str, Any]) -> None:
        """Leave it to the process that writes."""

    def close(self) -> None:
        """Nothing was opened."""


def _scalars(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in record.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append((prefix + name, float(value)))
        elif isinstance(value, Mapping):
            found += _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            found += _scalars({str(index): item for index, item in enumerate(value)}, f"{prefix}{name}/")
    return found


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of metrics.jsonl; a last line cut off by a kill is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
