"""Search spaces: which operations may stand on which edge, and how cells are wired. Plain data, no torch."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lbgnas.errors import LbgnasError, unknown

CANDIDATES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The candidate operations of DARTS, in the order of its alpha columns."""


def edge_index(node: int, source: int) -> int:
    """Return the row of the alphas that holds the edge from state `source` to intermediate node `node`.

    Nodes count from 0; states 0 and 1 are the cell's inputs and state 2 + i is node i.

    Example:
        >>> edge_index(1, 0), edge_index(3, 4)
        (2, 13)
    """
    return sum(2 + earlier for earlier in range(node)) + source


class SearchSpace(BaseModel):
    """A cell-based search space with one list of candidate operations for each edge.

    `operations` is one list for every edge, or one list for each edge (then all of equal length), for both
    kinds of cell or as `{normal: ..., reduce: ...}`.

    Example:
        >>> load_space("darts").num_edges
        14
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    nodes: int = Field(4, ge=1, le=12)
    concat: tuple[int, ...]
    operations: dict[Literal["normal", "reduce"], tuple[tuple[str, ...], ...]]
    stem: Literal["cifar", "imagenet"] = "cifar"
    partial_channels: int = Field(1, ge=1, description="1/K of the channels enter the operations (PC-DARTS)")
    edge_normalisation: bool = False

    @field_validator("operations", mode="before")
    @classmethod
    def _for_both_cells(cls, value: object) -> object:
        return value if isinstance(value, dict) else {"normal": value, "reduce": value}

    @model_validator(mode="before")
    @classmethod
    def _for_every_edge(cls, data: object) -> object:
        if not isinstance(data, dict) or "operations" not in data or not isinstance(data.get("nodes", 4), int):
            return data
        count = edge_index(data.get("nodes", 4), 0)
        per_cell = cls._for_both_cells(data["operations"])
        assert isinstance(per_cell, dict)
        spread = {
            cell: [listed] * count if listed and all(isinstance(name, str) for name in listed) else listed
            for cell, listed in per_cell.items()
            if isinstance(listed, (list, tuple))
        }
        return {**data, "operations": {**per_cell, **spread}}

    @model_validator(mode="after")
    def _fits(self) -> SearchSpace:
        if set(self.operations) != {"normal", "reduce"}:
            raise ValueError("operations: needs both normal and reduce")
        for cell, edges in self.operations.items():
            if len(edges) != self.num_edges:
                raise ValueError(
                    f"operations.{cell}: {len(edges)} edges given, {self.nodes} nodes have {self.num_edges}"
                )
            if len({len(names) for names in edges}) != 1 or not edges[0]:
                raise ValueError(f"operations.{cell}: every edge needs the same number of operations, at least 1")
            for edge, names in enumerate(edges):
                for name in names:
                    if name not in CANDIDATES:
                        raise unknown("operation", name, CANDIDATES, f"operations.{cell}[{edge}]")
                if len(set(names)) != len(names):
                    raise ValueError(f"operations.{cell}[{edge}]: an operation is listed twice")
        if not self.concat or not all(2 <= state < 2 + self.nodes for state in self.concat):
            raise ValueError(f"concat: states must lie in 2..{1 + self.nodes}")
        return self

    @property
    def num_edges(self) -> int:
        """The number of edges of a cell, 2 + 3 + ... over its nodes."""
        return edge_index(self.nodes, 0)

    @cached_property
    def architecture_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the architecture parameters, in the order in which the references keep them."""
        alphas: dict[str, tuple[int, ...]] = {
            f"alphas_{cell}": (self.num_edges, len(self.operations[cell][0])) for cell in ("normal", "reduce")
        }
        if not self.edge_normalisation:
            return alphas
        return {**alphas, "betas_normal": (self.num_edges,), "betas_reduce": (self.num_edges,)}


def _folder() -> Path:
    packaged = Path(__file__).parent / "search_spaces"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "search_spaces"


def space_names() -> tuple[str, ...]:
    """Return the names of the shipped search spaces."""
    return tuple(sorted(path.stem for path in _folder().glob("*.yaml")))


def load_space(name_or_path: str) -> SearchSpace:
    """Load a shipped space by name or a user's own YAML file by path.

    Raises:
        LbgnasError: for an unknown name, an unreadable file or a space that does not fit together.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        if name_or_path not in space_names():
            raise unknown("search space", name_or_path, space_names())
        path = _folder() / f"{name_or_path}.yaml"
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LbgnasError(f"{path}: cannot be read as YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(raw, dict):
        raise LbgnasError(f"{path}: holds no mapping of settings")
    try:
        return SearchSpace(**raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise unknown("key", place, SearchSpace.model_fields, str(path)) from None
        raise LbgnasError(
            f"{path}: {place + ': ' if place else ''}{first['msg'].removeprefix('Value error, ')}"
        ) from None
