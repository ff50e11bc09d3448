"""What the command-line tools share: presets below a config file below flags, and errors in one sentence."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel

from lbgnas.config import Settings, load_preset, merged, read_yaml, validated
from lbgnas.errors import LbgnasError, unknown

if TYPE_CHECKING:
    import torch

Options = TypeVar("Options", bound=Settings)


def parse(options: type[Options], section: Literal["search", "evaluation"], argv: Sequence[str]) -> Options:
    """Return the options: a preset's, overlaid by --config, overlaid by flags.

    Raises:
        LbgnasError: for unknown presets, keys and values, and for --resume beside settings.
    """
    import tyro

    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--preset", default="quick")
    early.add_argument("--config", type=Path)
    early.add_argument("--resume")
    known, _ = early.parse_known_args(list(argv))
    values: dict[str, Any] = load_preset(known.preset, section)
    if known.config is not None:
        values = merged(values, read_yaml(known.config))
    default = validated(options, values, str(known.config or f"preset {known.preset}"))
    _check_flags(options, argv, values)
    if known.resume is not None:
        _check_resume(argv)
    return tyro.cli(options, args=list(argv), default=default, description=options.__doc__)


def _flags(argv: Sequence[str]) -> list[tuple[str, str | None]]:
    pairs: list[tuple[str, str | None]] = []
    for position, arg in enumerate(argv):
        if arg.startswith("--"):
            name, equals, value = arg[2:].partition("=")
            following = argv[position + 1] if position + 1 < len(argv) else None
            pairs.append((name.replace("-", "_"), value if equals else following))
    return pairs


def _flag(path: Sequence[str]) -> str:
    return "--" + ".".join(path).replace("_", "-")


def _paths(schema: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in schema.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _paths(inner, (*above, name))
        else:
            yield (*above, name)


def _check_flags(options: type[Settings], argv: Sequence[str], below: Mapping[str, Any]) -> None:
    """Refuse unknown flags and values out of range in the words of the config files."""
    known = {_flag(path): path for path in _paths(options)}
    for name, value in _flags(argv):
        flag = _flag([name])
        if flag == "--help":
            continue
        if flag not in known:
            raise unknown("flag", flag, known)
        if value is None or value.startswith("--"):
            raise LbgnasError(f"{flag}: a value is missing after it")
        nested: Any = None if value == "None" else value
        for part in reversed(known[flag]):
            nested = {part: nested}
        validated(options, merged(below, nested), "command line")


def _check_resume(argv: Sequence[str]) -> None:
    for name, _ in _flags(argv):
        if name not in ("resume", "device", "threads"):
            flag = name.replace("_", "-")
            raise LbgnasError(f"--{flag}: a resumed run keeps its own settings; leave it out beside --resume")


def settings_of(options: Settings, schema: type[Options]) -> Options:
    """Return the settings alone, without the flags of the run."""
    values = {name: getattr(options, name) for name in schema.model_fields}
    return schema(**values)


def start_torch(device: str, threads: int | None) -> torch.device:
    """Prepare the machine and return the device: the named one, or a GPU if there is one.

    Raises:
        LbgnasError: if the device is not there.
    """
    from lbgnas.engine.machine import prepare_cpu

    prepare_cpu()
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise LbgnasError(f"--device {device}: is no device; auto, cpu, cuda or cuda:N are") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise LbgnasError(f"--device {device}: torch sees no CUDA GPU here; use cpu or auto")
    return found


def guarded(tool: str, run: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run a tool; print what goes wrong as one sentence and return the exit code."""
    try:
        run(sys.argv[1:] if argv is None else argv)
    except LbgnasError as error:
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
        print(f"{tool}: {error}", file=sys.stderr)
        return 128 + int(number)
    return 0
