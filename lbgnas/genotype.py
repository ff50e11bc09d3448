"""Genotypes: which operations an architecture is made of, and the JSON files that hold them.

A file holds plain data and nothing that runs: names, numbers and, for several experts, the name and hash of
the safetensors file with the gate's weights that lies beside it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lbgnas
from lbgnas.errors import LbgnasError, unknown
from lbgnas.files import write_text
from lbgnas.registry import ABBREVIATIONS

FORMAT = "lbgnas.genotype"
VERSION = 1
BASES = ("darts", "pdarts", "pcdarts", "darts-", "manual")
GROUPINGS = ("none", "lbg", "dalbg")
MAX_EXPERTS = 64
OPERATIONS: tuple[str, ...] = tuple(ABBREVIATIONS)
"""The published ones; `register_operation` adds to `ABBREVIATIONS`."""

Pairs = tuple[tuple[str, int], ...]
Kind = Literal["normal", "reduce"]
KINDS: tuple[Kind, Kind] = ("normal", "reduce")


def short_pairs(pairs: Pairs) -> str:
    """Return the edges of one cell as "operation:input", nodes parted by a bar.

    Example:
        >>> short_pairs((("sep_conv_3x3", 0), ("skip_connect", 1)))
        's3:0 sk:1'
    """
    edges = [f"{ABBREVIATIONS[operation]}:{source}" for operation, source in pairs]
    return " | ".join(" ".join(edges[i : i + 2]) for i in range(0, len(edges), 2))


@dataclass(frozen=True)
class CellGenotype:
    """The two cells of one expert: (operation, input state) pairs, two for each node, and the output's nodes.

    States 0 and 1 are the outputs of the two cells before, state 2 is the first node.
    `normal_concat` and `reduce_concat` list the nodes whose channels form the output, in that order.
    """

    normal: Pairs
    normal_concat: tuple[int, ...]
    reduce: Pairs
    reduce_concat: tuple[int, ...]

    def pairs(self, cell: Kind) -> Pairs:
        """Return the edges of the cell named "normal" or "reduce"."""
        return {"normal": self.normal, "reduce": self.reduce}[cell]

    def concat(self, cell: Kind) -> tuple[int, ...]:
        """Return the states that form the output of the cell named "normal" or "reduce"."""
        return {"normal": self.normal_concat, "reduce": self.reduce_concat}[cell]

    @property
    def normal_nodes(self) -> int:
        """Number of nodes of the normal cell."""
        return len(self.normal) // 2

    @property
    def reduce_nodes(self) -> int:
        """Number of nodes of the reduction cell."""
        return len(self.reduce) // 2

    def skips(self, cell: Kind) -> int:
        """Return how many edges of the cell named "normal" or "reduce" are skip connections."""
        return sum(operation == "skip_connect" for operation, _ in self.pairs(cell))

    def short(self) -> str:
        """Return both cells on one line; a concat is named only where it is not all the nodes.

        Example:
            >>> edges = (("sep_conv_3x3", 0), ("skip_connect", 1))
            >>> CellGenotype(edges, (2,), edges, (2,)).short()
            'normal s3:0 sk:1 ; reduce s3:0 sk:1'
        """
        parts = []
        for cell in KINDS:
            pairs, concat = self.pairs(cell), self.concat(cell)
            usual = tuple(range(2, 2 + len(pairs) // 2))
            note = "" if concat == usual else f", concat {list(concat)}"
            parts.append(f"{cell} {short_pairs(pairs)}{note}")
        return " ; ".join(parts)


@dataclass(frozen=True)
class GateRecord:
    """How to build the gate, and its weights: the name of a file beside the genotype, and its SHA-256."""

    architecture: Mapping[str, Any] = field(hash=False)
    weights: str
    sha256: str


@dataclass(frozen=True)
class Genotype:
    """The outcome of a search: K experts, the gate that chooses among them (none if K = 1), its origin."""

    name: str
    base: str
    grouping: str
    space: str
    experts: tuple[CellGenotype, ...]
    gate: GateRecord | None = None
    source: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict, hash=False)


# ------------------------------------------------------------------------------------------------ writing


def _dumps(value: object, key: str) -> str:
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise LbgnasError(f"{key}: cannot be written as JSON: {error}") from None


def _pairs_text(pairs: Pairs, key: str) -> str:
    edges = [_dumps(list(pair), key) for pair in pairs]
    lines = [", ".join(edges[i : i + 2]) for i in range(0, len(edges), 2)]
    return "[\n        " + ",\n        ".join(lines) + "\n      ]"


def _cell_text(cell: CellGenotype, key: str) -> str:
    rows = []
    for kind in KINDS:
        rows.append(f'"{kind}": {_pairs_text(cell.pairs(kind), f"{key}.{kind}")}')
        rows.append(f'"{kind}_concat": {_dumps(list(cell.concat(kind)), f"{key}.{kind}_concat")}')
    return "    {\n      " + ",\n      ".join(rows) + "\n    }"


def _block(mapping: Mapping[str, Any], key: str) -> str:
    rows = [
        f"    {_dumps(name, key)}: {_dumps(value, f'{key}.{name}')}" for name, value in sorted(mapping.items(), key=str)
    ]
    return "{\n" + ",\n".join(rows) + "\n  }" if rows else "{}"


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def to_json(genotype: Genotype) -> str:
    """Return the text of a genotype file, one node of a cell a line; equal genotypes give equal text.

    Raises:
        LbgnasError: the genotype is one that `from_json` would refuse.
    """
    name = f"genotype {genotype.name!r}"
    gate = genotype.gate
    heads: dict[str, object] = {"format": FORMAT, "version": VERSION}
    heads |= {key: getattr(genotype, key) for key in ("name", "base", "grouping", "space", "source")}
    rows = [f'"{key}": {_dumps(value, f"{name}: {key}")}' for key, value in heads.items()]
    cells = [_cell_text(cell, f"{name}: experts[{i}]") for i, cell in enumerate(genotype.experts)]
    rows.append('"experts": [\n' + ",\n".join(cells) + "\n  ]")
    record = vars(gate) | {"architecture": dict(gate.architecture)} if gate else {}
    rows.append(f'"gate": {_block(record, f"{name}: gate") if record else "null"}')
    rows.append(f'"provenance": {_block(genotype.provenance, f"{name}: provenance")}')
    text = "{\n  " + ",\n  ".join(rows) + "\n}\n"
    from_json(text, name)
    return text


def save(genotype: Genotype, path: str | Path) -> None:
    """Write a genotype file whole or not at all, making its folder if need be.

    Raises:
        LbgnasError: the genotype is not valid, or the place cannot be written.
    """
    write_text(Path(path), to_json(genotype))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: object) -> str:
    if isinstance(value, (list, dict)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _object(value: object, where: str, keys: Iterable[str]) -> dict[str, Any]:
    keys = tuple(keys)
    if not isinstance(value, dict):
        raise LbgnasError(f"{where}: must be an object with the keys {', '.join(keys)}, not {_shown(value)}")
    for key in value:
        if key not in keys:
            raise unknown("key", key, keys, where)
    for key in keys:
        if key not in value:
            raise LbgnasError(f"{where}: the key {key!r} is missing")
    return value


def _list(value: object, where: str, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise LbgnasError(f"{where}: must be a list of {what}, not {_shown(value)}")
    return value


def _text(value: object, where: str, allowed: Iterable[str] = (), what: str = "") -> str:
    if not isinstance(value, str):
        raise LbgnasError(f"{where}: must be text, not {_shown(value)}")
    if what and value not in allowed:
        raise unknown(what, value, allowed, where)
    return value


def _label(value: object, where: str) -> str:
    text = _text(value, where)
    if not text.strip() or not text.isprintable():
        raise LbgnasError(f"{where}: must be one line of printable text, not {_shown(value)}")
    return text


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise LbgnasError(f"{where}: must be an object, not {_shown(value)}")
    return value


def _pairs(value: object, where: str) -> Pairs:
    pairs: list[tuple[str, int]] = []
    for i, pair in enumerate(_list(value, where, "[operation, input] pairs")):
        here, node = f"{where}[{i}]", i // 2 + 2
        if not isinstance(pair, list) or len(pair) != 2:
            raise LbgnasError(f"{here}: must be a pair [operation, input], not {_shown(pair)}")
        operation, source = _text(pair[0], here, ABBREVIATIONS, "operation"), pair[1]
        if not _is_int(source):
            raise LbgnasError(f"{here}: the input must be a whole number, not {_shown(source)}")
        if not 0 <= source < node:
            raise LbgnasError(f"{here}: input {source} is out of the range 0 to {node - 1} of node {node}")
        pairs.append((operation, source))
    if not pairs or len(pairs) % 2:
        raise LbgnasError(f"{where}: must hold two pairs for each node, not {len(pairs)} in all")
    return tuple(pairs)


def _concat(value: object, where: str, nodes: int) -> tuple[int, ...]:
    states = _list(value, where, "node numbers")
    if not states:
        raise LbgnasError(f"{where}: must name at least one node, from 2 to {nodes + 1}")
    for i, state in enumerate(states):
        if not _is_int(state) or not 2 <= state <= nodes + 1:
            raise LbgnasError(f"{where}[{i}]: must be a node from 2 to {nodes + 1}, not {_shown(state)}")
        if state in states[:i]:
            raise LbgnasError(f"{where}[{i}]: names node {state} a second time")
    return tuple(states)


def _cell(value: object, where: str) -> CellGenotype:
    data = _object(value, where, ("normal", "normal_concat", "reduce", "reduce_concat"))
    normal, reduce = (_pairs(data[kind], f"{where}.{kind}") for kind in KINDS)
    return CellGenotype(
        normal=normal,
        normal_concat=_concat(data["normal_concat"], f"{where}.normal_concat", len(normal) // 2),
        reduce=reduce,
        reduce_concat=_concat(data["reduce_concat"], f"{where}.reduce_concat", len(reduce) // 2),
    )


def _gate(value: object, where: str, experts: int) -> GateRecord | None:
    if value is None:
        if experts > 1:
            raise LbgnasError(f"{where}: is null, but {experts} experts need a gate to choose among them")
        return None
    data = _object(value, where, ("architecture", "weights", "sha256"))
    if experts == 1:
        raise LbgnasError(f"{where}: must be null where there is one expert, for a gate has nothing to choose")
    weights = _label(data["weights"], f"{where}.weights")
    if weights in (".", "..") or re.search(r"[/\\:]", weights):
        raise LbgnasError(
            f"{where}.weights: must be the plain name of a file in the same folder, not {_shown(weights)}"
        )
    sha256 = _text(data["sha256"], f"{where}.sha256")
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise LbgnasError(f"{where}.sha256: must be 64 hexadecimal digits, not {_shown(sha256)}")
    return GateRecord(_mapping(data["architecture"], f"{where}.architecture"), weights, sha256)


def _parse(text: str, where: str) -> object:
    def once(items: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in items:
            if key in seen:
                raise LbgnasError(f"{where}: the key {key!r} stands twice in one object")
            seen[key] = value
        return seen

    def finite(digits: str) -> float:
        number = float(digits)
        if not math.isfinite(number):
            raise LbgnasError(f"{where}: {digits} is not a finite number")
        return number

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=finite, parse_float=finite)
    except LbgnasError:
        raise
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()):
            raise LbgnasError(f"{where}: is cut off at line {error.lineno}, or not JSON: {error.msg}") from None
        place = f"line {error.lineno} column {error.colno}"
        raise LbgnasError(f"{where}: is not JSON at {place}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise LbgnasError(f"{where}: is not usable JSON: {error}") from None


def from_json(text: str, where: str) -> Genotype:
    """Read the text of a genotype file.

    Args:
        text: the JSON text.
        where: what to call the text in a message, such as the name of the file.

    Raises:
        LbgnasError: the text is not a valid genotype; names the key, such as experts[1].normal[3].
    """
    data = _parse(text, where)
    if not isinstance(data, dict):
        raise LbgnasError(f"{where}: must hold a JSON object, not {_shown(data)}")
    if data.get("format") != FORMAT:
        raise LbgnasError(f'{where}: format: must be "{FORMAT}", not {_shown(data.get("format"))}')
    version = data.get("version")
    if not _is_int(version) or version != VERSION:
        raise LbgnasError(f"{where}: version: is {_shown(version)}, and this lbgnas reads version {VERSION} only")
    keys = (
        "format",
        "version",
        "name",
        "base",
        "grouping",
        "space",
        "source",
        "experts",
        "gate",
        "provenance",
    )
    data = _object(data, where, keys)
    cells = _list(data["experts"], f"{where}: experts", "experts")
    if not 1 <= len(cells) <= MAX_EXPERTS:
        raise LbgnasError(f"{where}: experts: must hold 1 to {MAX_EXPERTS} experts, not {len(cells)}")
    return Genotype(
        name=_label(data["name"], f"{where}: name"),
        base=_text(data["base"], f"{where}: base", BASES, "base"),
        grouping=_text(data["grouping"], f"{where}: grouping", GROUPINGS, "grouping"),
        space=_label(data["space"], f"{where}: space"),
        source=_text(data["source"], f"{where}: source"),
        experts=tuple(_cell(cell, f"{where}: experts[{i}]") for i, cell in enumerate(cells)),
        gate=_gate(data["gate"], f"{where}: gate", len(cells)),
        provenance=_mapping(data["provenance"], f"{where}: provenance"),
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise _missing(path) from None
    except (OSError, ValueError) as error:
        raise LbgnasError(f"{str(path)!r}: cannot be read: {_reason(error)}") from None


def _missing(path: Path) -> LbgnasError:
    folder = path.parent
    try:
        names = os.listdir(folder)
    except OSError:
        return LbgnasError(f"{path}: no such file, for there is no folder {folder} to read")
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    return LbgnasError(f"{path}: no such file" + (f"; did you mean {folder / close[0]}?" if close else ""))


def load(path: str | Path) -> Genotype:
    """Read a genotype file.

    Raises:
        LbgnasError: the file is missing (names the nearest one there is) or is not a valid genotype.
    """
    path = Path(path)
    try:
        text = _read(path).decode("utf-8")
    except UnicodeDecodeError:
        raise LbgnasError(f"{path}: is not JSON: it is not UTF-8 text") from None
    return from_json(text, str(path))


def check_gate_file(path_of_json: str | Path, genotype: Genotype) -> Path:
    """Return the path of the gate's weights, after comparing the file with the hash in the genotype.

    Raises:
        LbgnasError: the genotype has no gate, or the file is missing or is another one than was saved.
    """
    if genotype.gate is None:
        raise LbgnasError(f"{path_of_json}: gate: is null, so there are no weights to check")
    path = Path(path_of_json).parent / genotype.gate.weights
    found = hashlib.sha256(_read(path)).hexdigest()
    if found != genotype.gate.sha256.lower():
        start = genotype.gate.sha256[:12].lower()
        raise LbgnasError(f"{path}: its SHA-256 begins with {found[:12]}, but {path_of_json} asks for {start}")
    return path


# ---------------------------------------------------------------------------------------------- published


def _published() -> dict[str, Path]:
    package = Path(lbgnas.__file__).parent
    for folder in (package / "genotypes", package.parent / "genotypes"):
        if files := sorted(folder.glob("*.json")):
            return {file.stem: file for file in files}
    return {}


def published_names() -> tuple[str, ...]:
    """Return the names of the published genotypes that come with lbgnas."""
    return tuple(_published())


def published(name: str) -> Genotype:
    """Return a published genotype.

    Raises:
        LbgnasError: there is none of that name; says which there are.

    Example:
        >>> published("DARTS_V2").experts[0].skips("normal")
        2
    """
    files = _published()
    if name not in files:
        raise unknown("published genotype", name, files)
    return load(files[name])


def resolve(text: str) -> Path:
    """Return the file meant by a path or by the bare name of a published genotype.

    Raises:
        LbgnasError: it is neither a published name nor an existing file.
    """
    files = _published()
    if text in files:
        return files[text]
    path = Path(text)
    if path.name == text and not path.suffix and not os.path.exists(path):
        raise unknown("genotype", text, files)
    if os.path.isdir(path):
        raise LbgnasError(f"{path}: is a folder, not a genotype file")
    if not os.path.exists(path):
        raise _missing(path)
    return path
