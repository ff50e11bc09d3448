"""Genotypes in the form of NNI's architecture dictionaries and back, for spaces of the DARTS family. No NNI needed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lbgnas.errors import LbgnasError, unknown
from lbgnas.genotype import KINDS, CellGenotype, Kind, Pairs
from lbgnas.registry import ABBREVIATIONS

_EDGE = re.compile(r"(normal|reduce)/(op|input)_(\d+)_([01])")
_SIZES = ("width", "depth")


def to_nni(cell: CellGenotype) -> dict[str, Any]:
    """Return the architecture dictionary that `nni.nas.space.model_context` takes.

    Raises:
        LbgnasError: if an output leaves out a node, which NNI's DARTS space cannot.

    Example:
        >>> edges = (("sep_conv_3x3", 0), ("skip_connect", 1))
        >>> to_nni(CellGenotype(edges, (2,), edges, (2,)))["normal/op_2_1"]
        'skip_connect'
    """
    sample: dict[str, Any] = {}
    for kind in KINDS:
        pairs = cell.pairs(kind)
        if sorted(cell.concat(kind)) != list(range(2, 2 + len(pairs) // 2)):
            raise LbgnasError(
                f"{kind}_concat: {list(cell.concat(kind))} leaves out nodes, NNI's DARTS space joins all of them"
            )
        for position, (operation, source) in enumerate(pairs):
            node, place = 2 + position // 2, position % 2
            sample[f"{kind}/op_{node}_{place}"] = operation
            sample[f"{kind}/input_{node}_{place}"] = [source]
    return sample


def from_nni(sample: Mapping[str, Any], where: str = "sample") -> CellGenotype:
    """Return the cells of an architecture dictionary of NNI's DARTS space; a chosen width or depth plays no part.

    Raises:
        LbgnasError: if the dictionary is of another kind of space, incomplete, or has operations without a name here.

    Example:
        >>> from lbgnas.genotype import published
        >>> from_nni(to_nni(published("DARTS_V2").experts[0])) == published("DARTS_V2").experts[0]
        True
    """
    for key in sample:
        if key not in _SIZES and not _EDGE.fullmatch(key):
            raise LbgnasError(
                f"{where}: the key {key!r} is not of a DARTS space, whose keys are like normal/op_2_0 and "
                f"normal/input_2_0"
            )
    normal, reduce = (_pairs(sample, kind, where) for kind in KINDS)
    return CellGenotype(normal, _all_nodes(normal), reduce, _all_nodes(reduce))


def _all_nodes(pairs: Pairs) -> tuple[int, ...]:
    return tuple(range(2, 2 + len(pairs) // 2))


def _pairs(sample: Mapping[str, Any], kind: Kind, where: str) -> Pairs:
    found = (_EDGE.fullmatch(key) for key in sample)
    nodes = {int(match[3]) for match in found if match and match[1] == kind}
    if not nodes or nodes != set(range(2, 2 + len(nodes))):
        raise LbgnasError(f"{where}: the {kind} cell has the nodes {sorted(nodes)} instead of 2, 3, ...")
    pairs = []
    for node in sorted(nodes):
        for place in (0, 1):
            keys = [f"{kind}/{part}_{node}_{place}" for part in ("op", "input")]
            for key in keys:
                if key not in sample:
                    raise LbgnasError(f"{where}: the key {key!r} is missing")
            operation, chosen = (sample[key] for key in keys)
            if operation not in ABBREVIATIONS:
                raise unknown("operation", operation, ABBREVIATIONS, f"{where}: {keys[0]}")
            source = chosen[0] if isinstance(chosen, (list, tuple)) and len(chosen) == 1 else chosen
            if type(source) is not int or not 0 <= source < node:
                raise LbgnasError(f"{where}: {keys[1]}: {chosen!r} is not one input from 0 to {node - 1}")
            pairs.append((str(operation), source))
    return tuple(pairs)
