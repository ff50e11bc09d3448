"""Checkpoints: tensors, numbers and text, written whole, loaded without running anything."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch

from lbgnas.errors import LbgnasError
from lbgnas.files import write_whole

FORMAT = "lbgnas.checkpoint"
VERSION = 4


def save_checkpoint(path: Path, kind: str, identity: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all.

    Args:
        path: where.
        kind: "search", "evaluation" or "groups".
        identity: what the run is (base, grouping, sizes, data); compared on loading.
        content: nested mappings and lists of tensors, numbers and text.
    """
    whole = {"format": FORMAT, "version": VERSION, "kind": kind, "identity": dict(identity), **content}
    write_whole(path, lambda file: torch.save(whole, file))


def load_checkpoint(path: Path, kind: str, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Read a checkpoint of the same run.

    Raises:
        LbgnasError: if it is missing, broken, truncated, of another version, or of another run.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of foreign files torch has more to say than our one sentence
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise LbgnasError(f"{path}: no checkpoint is there; the run ended before its first") from None
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        BadZipFile,
        pickle.UnpicklingError,
    ) as error:
        reason = " ".join(str(error).split())[:120]
        raise LbgnasError(f"{path}: the checkpoint is broken or holds more than data ({reason})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise LbgnasError(f"{path}: is no checkpoint of lbgnas")
    if content.get("version") != VERSION:
        raise LbgnasError(f"{path}: is of version {content.get('version')!r}; this program reads {VERSION}")
    if content.get("kind") != kind:
        raise LbgnasError(f"{path}: belongs to a run of kind {content.get('kind')!r}, not {kind!r}")
    theirs = content.get("identity")
    if not isinstance(theirs, dict):
        raise LbgnasError(f"{path}: does not say which run it belongs to")
    for name, value in identity.items():
        if theirs.get(name) != value:
            raise LbgnasError(f"{path}: was made with {name} {theirs.get(name)!r}, this run has {value!r}")
    return content


def to_device(value: Any, device: torch.device) -> Any:
    """Return nested mappings and lists with their tensors on a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    return [to_device(item, device) for item in value] if isinstance(value, list) else value
