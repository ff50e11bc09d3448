"""Search spaces: which operations may stand on which edge, and how cells are wired. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lbgnas.errors import LbgnasError, unknown
from lbgnas.registry import CANDIDATES, candidate_names

__all__ = ["CANDIDATES", "SearchSpace", "edge_index", "load_space", "space_from", "space_names", "space_text"]

Kind = Literal["normal", "reduce"]
KINDS: tuple[Kind, Kind] = ("normal", "reduce")


def edge_index(node: int, source: int) -> int:
    """Return the row of the alphas that holds the edge from state `source` to intermediate node `node`.

    Nodes count from 0; states 0 and 1 are the cell's inputs and state 2 + i is node i.

    Example:
        >>> edge_index(1, 0), edge_index(3, 4)
        (2, 13)
    """
    return sum(2 + earlier for earlier in range(node)) + source


class SearchSpace(BaseModel):
    """A cell-based search space with a list of candidate operations for each edge.

    `operations` is one list for every edge, or one list for each edge, for both kinds of cell or as
    `{normal: ..., reduce: ...}`.

    Example:
        >>> load_space("darts").num_edges
        14
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    nodes: int = Field(4, ge=1, le=12)
    concat: tuple[int, ...]
    operations: dict[Kind, tuple[tuple[str, ...], ...]]
    cells: int = Field(8, ge=3, le=64, description="of the single supernet, unless a search says otherwise")
    reductions: tuple[str, ...] = Field(
        ("1/3", "2/3"), min_length=1, description="where cells halve the size, as fractions of the depth"
    )
    stem: Literal["cifar", "imagenet"] = "cifar"
    partial_channels: int = Field(1, ge=1, description="1/K of the channels enter the operations (PC-DARTS)")
    edge_normalisation: bool = False
    auxiliary_skip: Literal["skip", "conv"] | None = Field(None, description="beside every edge (DARTS-)")
    auxiliary_head_norm: bool = Field(
        False, description="a second batch norm in the evaluation network's auxiliary head after an ImageNet stem"
    )

    @field_validator("operations", mode="before")
    @classmethod
    def _for_both_cells(cls, value: object) -> object:
        return value if isinstance(value, dict) else {"normal": value, "reduce": value}

    @field_validator("reductions")
    @classmethod
    def _fractions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                number = Fraction(text)
            except (ValueError, ZeroDivisionError):
                raise ValueError(f"{text!r} is no fraction such as 1/3") from None
            if not 0 <= number < 1:
                raise ValueError(f"{text} must be at least 0 and below 1")
        if len(set(map(Fraction, value))) != len(value):
            raise ValueError("a fraction stands twice")
        return tuple(sorted(value, key=Fraction))

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
        known = candidate_names()
        for cell, edges in self.operations.items():
            if len(edges) != self.num_edges:
                raise ValueError(
                    f"operations.{cell}: {len(edges)} edges given, {self.nodes} nodes have {self.num_edges}"
                )
            for edge, names in enumerate(edges):
                for name in names:
                    if name not in known:
                        raise unknown("operation", name, known, f"operations.{cell}[{edge}]")
                if len(set(names)) != len(names):
                    raise ValueError(f"operations.{cell}[{edge}]: an operation is listed twice")
                if not set(names) - {"none"}:
                    raise ValueError(f"operations.{cell}[{edge}]: needs at least one operation other than none")
        if not self.concat or not all(2 <= state < 2 + self.nodes for state in self.concat):
            raise ValueError(f"concat: states must lie in 2..{1 + self.nodes}")
        if len(set(self.concat)) != len(self.concat):
            raise ValueError("concat: a state stands twice")
        return self

    @property
    def num_edges(self) -> int:
        """The number of edges of a cell, 2 + 3 + ... over its nodes."""
        return edge_index(self.nodes, 0)

    @property
    def reduction_points(self) -> tuple[Fraction, ...]:
        """Where cells halve the size, as fractions of the depth, ascending."""
        return tuple(map(Fraction, self.reductions))

    @property
    def halved_width(self) -> bool:
        """Whether the first cell's channels are split in halves beyond what doubling makes even."""
        return self.partial_channels > 1 or self.stem == "imagenet"

    @property
    def channel_step(self) -> int:
        """What the channels of the first cell must be a multiple of."""
        return 2 * self.partial_channels if self.halved_width else 1

    def widths(self, kind: Kind) -> tuple[int, ...]:
        """Return the number of candidates of each edge."""
        return tuple(len(names) for names in self.operations[kind])

    def columns(self, kind: Kind) -> int:
        """Return the columns of the alphas: the number of candidates of the edge that has most."""
        return max(self.widths(kind))

    def with_operations(self, operations: dict[Kind, tuple[tuple[str, ...], ...]]) -> SearchSpace:
        """Return the same space with other candidates."""
        return SearchSpace(**{**self.model_dump(), "operations": operations})

    def with_auxiliary_skip(self, wanted: bool) -> SearchSpace:
        """Return the same space with its auxiliary skip (a plain one if it names none), or without one."""
        skip = (self.auxiliary_skip or "skip") if wanted else None
        return SearchSpace(**{**self.model_dump(), "auxiliary_skip": skip})

    @cached_property
    def architecture_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the architecture parameters, in the order in which the references keep them.

        Where edges have unequal numbers of candidates, the rows of the others end in unused entries.
        """
        alphas: dict[str, tuple[int, ...]] = {f"alphas_{kind}": (self.num_edges, self.columns(kind)) for kind in KINDS}
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
    return space_from(raw, str(path))


def space_from(description: Mapping[str, Any], where: str) -> SearchSpace:
    """Return the space that a mapping describes.

    Args:
        description: the fields of `SearchSpace`.
        where: what to call it in a message.

    Raises:
        LbgnasError: for a space that does not fit together.
    """
    try:
        return SearchSpace(**description)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise unknown("key", place, SearchSpace.model_fields, where) from None
        raise LbgnasError(
            f"{where}: {place + ': ' if place else ''}{first['msg'].removeprefix('Value error, ')}"
        ) from None


def space_text(space: SearchSpace) -> str:
    """Return a space as the text of a YAML file that `load_space` reads."""
    return yaml.safe_dump(space.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=120)
