"""lbgnas: differentiable architecture search that learns groups.

from lbgnas import draw, evaluate, load, search

found = search("runs/mine/search", base="pcdarts", grouping="dalbg")
print(evaluate(found.genotype, "runs/mine/evaluate").to_markdown())
draw(load(found.genotype), "runs/mine/drawings")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lbgnas._version import __version__ as __version__
from lbgnas.errors import LbgnasError as LbgnasError

if TYPE_CHECKING:
    from lbgnas.api import evaluate as evaluate
    from lbgnas.api import search as search
    from lbgnas.classifier import GroupedClassifier as GroupedClassifier
    from lbgnas.genotype import Genotype as Genotype
    from lbgnas.genotype import load as load
    from lbgnas.genotype import published as published
    from lbgnas.networks.stacked import StackedNetwork as StackedNetwork
    from lbgnas.registry import register_operation as register_operation
    from lbgnas.report.drawing import draw_genotype as draw

# Torch takes seconds to import, so names are looked up when they are asked for.
_PLACES = {
    "search": ("lbgnas.api", "search"),
    "evaluate": ("lbgnas.api", "evaluate"),
    "load": ("lbgnas.genotype", "load"),
    "published": ("lbgnas.genotype", "published"),
    "Genotype": ("lbgnas.genotype", "Genotype"),
    "register_operation": ("lbgnas.registry", "register_operation"),
    "StackedNetwork": ("lbgnas.networks.stacked", "StackedNetwork"),
    "GroupedClassifier": ("lbgnas.classifier", "GroupedClassifier"),
    "draw": ("lbgnas.report.drawing", "draw_genotype"),
}

__all__ = [
    "Genotype",
    "GroupedClassifier",
    "LbgnasError",
    "StackedNetwork",
    "draw",
    "evaluate",
    "load",
    "published",
    "register_operation",
    "search",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'lbgnas' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
