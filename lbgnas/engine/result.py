"""The files a search ends in: the genotype and, beside it, the gate's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from lbgnas._version import __version__
from lbgnas.config import SearchSettings
from lbgnas.engine.run_folder import GENOTYPE
from lbgnas.errors import LbgnasError
from lbgnas.files import write_bytes
from lbgnas.genotype import CellGenotype, GateRecord, Genotype, check_gate_file
from lbgnas.genotype import save as save_genotype
from lbgnas.networks.gate import SmallGate, build_gate
from lbgnas.space import SearchSpace, load_space, space_from, space_names

GATE = "gate.safetensors"


def write_genotype(
    folder: Path,
    settings: SearchSettings,
    space: str,
    cells: tuple[CellGenotype, ...],
    gate: torch.nn.Module | None,
    provenance: Mapping[str, Any],
) -> Path:
    """Write genotype.json and, for several experts, gate.safetensors into a folder; return the former's path."""
    record = None
    if gate is not None and len(cells) > 1:
        assert isinstance(gate, SmallGate)
        content = save({name: value.detach().cpu().contiguous() for name, value in gate.state_dict().items()})
        write_bytes(folder / GATE, content)
        record = GateRecord(gate.record, GATE, hashlib.sha256(content).hexdigest())
    genotype = Genotype(
        name=f"{settings.base}-{settings.grouping}-seed{settings.seed}",
        base=settings.base,
        grouping=settings.grouping,
        space=space,
        experts=cells,
        gate=record,
        source="searched with lbgnas",
        provenance={**provenance, "lbgnas": __version__, "torch": str(torch.__version__)},
    )
    path = folder / GENOTYPE
    save_genotype(genotype, path)
    return path


def load_gate(path: Path, genotype: Genotype) -> SmallGate | None:
    """Return the gate of a genotype file, None for a single expert.

    Raises:
        LbgnasError: if the weights beside the file are missing, changed, or of another shape.
    """
    if genotype.gate is None:
        return None
    weights = check_gate_file(path, genotype)
    gate = build_gate(genotype.gate.architecture, f"{path}: gate.architecture")
    if gate.record["groups"] != len(genotype.experts):
        raise LbgnasError(
            f"{path}: gate.architecture.groups: {gate.record['groups']} for {len(genotype.experts)} experts"
        )
    try:
        gate.load_state_dict(load_file(weights))
    except RuntimeError as error:
        raise LbgnasError(f"{weights}: does not fit the gate ({' '.join(str(error).split())[:120]})") from None
    return gate.eval()


def searched_space(genotype: Genotype) -> SearchSpace:
    """Return the space a genotype was searched in: as its file describes it, else the shipped one of that name.

    A genotype of an unknown space stands for a network of the published form, that of DARTS.

    Raises:
        LbgnasError: if the file's description is of no space.
    """
    described = genotype.provenance.get("space")
    if isinstance(described, Mapping):
        return space_from(described, f"{genotype.name}: provenance.space")
    return load_space(genotype.space if genotype.space in space_names() else "darts")
