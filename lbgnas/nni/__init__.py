"""The plugin for NNI 3.0: `LBG` as a strategy of its experiments, and genotypes in its form.

from lbgnas.nni import LBG

NasExperiment(space, evaluator, LBG(num_experts=2, grouping="dalbg", base="darts")).run()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lbgnas.nni.genotypes import from_nni as from_nni
    from lbgnas.nni.genotypes import to_nni as to_nni
    from lbgnas.nni.spaces import with_classes as with_classes
    from lbgnas.nni.strategy import LBG as LBG

# Genotypes are converted without NNI; it is imported with the names that need it.
_PLACES = {
    "LBG": "lbgnas.nni.strategy",
    "from_nni": "lbgnas.nni.genotypes",
    "to_nni": "lbgnas.nni.genotypes",
    "with_classes": "lbgnas.nni.spaces",
}

__all__ = ["LBG", "from_nni", "to_nni", "with_classes"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'lbgnas.nni' has no attribute {name!r}")
    if not _PLACES[name].endswith("genotypes"):
        # First, so that a missing NNI is told at once.
        import_module("lbgnas.nni.host")
    return getattr(import_module(_PLACES[name]), name)
