"""What the command-line tools share: presets below a config file below flags, and errors in one sentence."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lbgnas.config import Settings, load_preset, merged, preset_names, read_yaml, validated
from lbgnas.errors import LbgnasError, unknown
from lbgnas.ranks import PeerLost, Place, place

if TYPE_CHECKING:
    import torch

Schema = TypeVar("Schema", bound=Settings)
PATIENCE = 30.0
"""Seconds in which the first process has surely told an error, if it met it too."""


@dataclass(frozen=True)
class RunFlags:
    """Where a run lies and what it runs on: nothing that changes its result."""

    out: Path | None
    resume: Path | None
    device: str
    threads: int | None
    estimate: bool


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `LbgnasError`s."""

    def __init__(self, description: str | None, usage: str = "%(prog)s [--flag value ...]") -> None:
        super().__init__(usage=usage, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print and exit with."""
        flag, _, reason = message.removeprefix("argument ").partition(": ")
        if reason == "expected one argument":
            message = f"{flag}: a value is missing after it"
        raise LbgnasError(message)

    def parsed(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return the values given, by flag.

        Raises:
            LbgnasError: for an unknown flag (with the nearest one) or a missing value.
        """
        given, rest = self.parse_known_args(list(argv))
        if rest:
            if not rest[0].startswith("-"):
                raise LbgnasError(f"{rest[0]!r} has no place; settings are given as --name value")
            known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
            raise unknown("flag", rest[0].partition("=")[0], known)
        return vars(given)


def parse(
    schema: type[Schema],
    section: Literal["search", "evaluation", "groups"],
    argv: Sequence[str],
    about: str,
    estimated: bool = False,
    threads: int | None = None,
) -> tuple[Schema, RunFlags]:
    """Return settings (a preset's, overlaid by --config, overlaid by flags) and the flags of the run.

    `estimated` tools have the flag --estimate. `threads` is what they take of the CPU where neither --threads nor
    OMP_NUM_THREADS says it; None for all.

    Raises:
        LbgnasError: for unknown presets, keys and values, and for --resume beside settings.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--preset", "--config", "--base"):
        early.add_argument(name, nargs="?")
    known, _ = early.parse_known_args(list(argv))
    preset = known.preset or "quick"
    own = {} if known.config is None else read_yaml(Path(known.config))
    values = merged(load_preset(preset, section, known.base or own.get("base")), own)
    default = validated(schema, values, known.config or f"preset {preset}")
    parser = Parser(about)
    run = parser.add_argument_group("run")
    _add(run, "--preset", "NAME", f"settings to start from: {', '.join(preset_names())} (default: quick)")
    _add(run, "--config", "FILE", "YAML file of settings, such as config.yaml of a run folder; wins over the preset")
    _add(run, "--out", "FOLDER", "folder of the run (default: a new one in runs/)")
    _add(run, "--resume", "FOLDER", "folder of a stopped run to go on with")
    _add(run, "--device", "NAME", "auto, cpu, cuda or cuda:N (default: auto)")
    _add(run, "--threads", "N", f"CPU threads (default: {threads or 'all'}, or OMP_NUM_THREADS)")
    if estimated:
        about = "take a few steps, print the time, memory and parameters of the whole run, keep nothing"
        run.add_argument("--estimate", dest="--estimate", action="store_true", default=argparse.SUPPRESS, help=about)
    _add_settings(parser, schema, default, ())
    given = parser.parsed(argv)
    flags = {name.removeprefix("--"): given.pop(name, None) for name in _RUN_FLAGS}
    for flag, value in given.items():
        nested: Any = None if value == "None" else value
        for part in reversed(flag.removeprefix("--").replace("-", "_").split(".")):
            nested = {part: nested}
        values = merged(values, nested)
        default = validated(schema, values, "command line")
    if flags["resume"] is not None:
        alone = ("preset", "config", "out", "estimate")
        for flag in (*given, *(f"--{name}" for name in alone if flags[name] is not None)):
            raise LbgnasError(f"{flag}: a resumed run keeps its own settings; leave it out beside --resume")
    return default, RunFlags(
        out=_path(flags["out"]),
        resume=_path(flags["resume"]),
        device=flags["device"] or "auto",
        threads=_threads(flags["threads"], threads),
        estimate=flags["estimate"] is not None,
    )


_RUN_FLAGS = ("--preset", "--config", "--out", "--resume", "--device", "--threads", "--estimate")


def _threads(given: str | None, default: int | None) -> int | None:
    if given is not None:
        return whole_number("--threads", given, 1)
    return None if "OMP_NUM_THREADS" in os.environ else default


def _path(given: str | None) -> Path | None:
    return None if given is None else Path(given)


def whole_number(flag: str, given: str, least: int = 0) -> int:
    """Return a flag's value as a whole number of at least `least`."""
    if not given.isdecimal() or int(given) < least:
        raise LbgnasError(f"{flag} {given}: a whole number from {least} is allowed")
    return int(given)


def _add(group: argparse._ArgumentGroup, flag: str, metavar: str, about: str) -> None:
    group.add_argument(flag, dest=flag, metavar=metavar, default=argparse.SUPPRESS, help=about.replace("%", "%%"))


def _add_settings(parser: Parser, schema: type[BaseModel], default: BaseModel, above: tuple[str, ...]) -> None:
    group = parser.add_argument_group(".".join(above) or "settings", schema.__doc__ if above else None)
    nested = []
    for name, field in schema.model_fields.items():
        value = getattr(default, name)
        if isinstance(value, BaseModel):
            nested.append((type(value), value, (*above, name)))
            continue
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        shown = "" if value in (None, "") else f"(default: {text})"
        flag = "--" + ".".join((*above, name)).replace("_", "-")
        about = f"{field.description or ''} {shown}".strip()
        if field.annotation is bool:
            group.add_argument(flag, dest=flag, action="store_true", default=argparse.SUPPRESS, help=about)
        else:
            _add(group, flag, _metavar(field), about)
    for inner in nested:
        _add_settings(parser, *inner)


def _metavar(field: FieldInfo) -> str:
    kinds = [kind for kind in (get_args(field.annotation) or (field.annotation,)) if kind is not type(None)]
    choices = list(_literals(field.annotation))
    if choices:
        return "{" + ",".join(choices) + "}"
    name = {int: "INT", float: "FLOAT"}.get(kinds[0], "TEXT")
    return f"{name},..." if get_origin(field.annotation) is tuple else name


def _literals(annotation: Any) -> Iterator[str]:
    for part in get_args(annotation):
        yield from [part] if isinstance(part, str) else _literals(part)


def start_torch(device: str, threads: int | None, several: bool = False) -> torch.device:
    """Prepare the machine and return the device: the named one, or a GPU if there is one.

    Args:
        device: the name, or auto.
        threads: of the CPU; None for what torch takes.
        several: whether several processes may share the work; each then takes the GPU of its number.

    Raises:
        LbgnasError: if the device is not there, or one process is not enough for what torchrun started.
    """
    own = place()
    if own.processes > 1 and not several:
        raise LbgnasError(
            f"torchrun: {own.processes} processes for what one does alone; only a search and an evaluation take "
            "several, and not with --estimate"
        )
    from lbgnas.engine.machine import prepare_cpu

    prepare_cpu()
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError:
        raise LbgnasError(f"--device {device}: is no device; auto, cpu, cuda or cuda:N are") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise LbgnasError(f"--device {device}: torch sees no CUDA GPU here; use cpu or auto")
    return _own_gpu(found, own) if own.processes > 1 and found.type == "cuda" else found


def _own_gpu(device: torch.device, own: Place) -> torch.device:
    import torch

    known = torch.cuda.device_count()  # the same in all processes: the first one refuses, too
    if device.index is not None:
        raise LbgnasError(f"--device {device}: each of several processes takes a GPU of its own; use cuda, auto or cpu")
    if own.beside > known:
        raise LbgnasError(f"torchrun: {own.beside} processes on this machine, which has {known} GPUs; use fewer")
    torch.cuda.set_device(own.local)
    return torch.device("cuda", own.local)


def guarded(tool: str, run: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run a tool; print what goes wrong as one sentence and return the exit code.

    Of several processes the first one prints; all do where one of them died.
    """
    quiet = place().rank > 0
    try:
        run(sys.argv[1:] if argv is None else argv)
    except LbgnasError as error:
        if quiet and not isinstance(error, PeerLost):
            # torchrun ends the others as soon as one has ended: that should be the one who says why.
            time.sleep(PATIENCE)
        print(f"{tool}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{tool}: stopped at once", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"{tool}: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        number = getattr(error, "signal_number", None)
        if number is None and "out of memory" not in str(error).lower():
            raise
        if number is None:
            print(f"{tool}: out of memory; use a smaller --batch-size or --network.channels", file=sys.stderr)
            return 2
        if not quiet:
            print(f"{tool}: {error}", file=sys.stderr)
        return 128 + int(number)
    return 0
