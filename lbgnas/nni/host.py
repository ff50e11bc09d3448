"""The one door to NNI: its names, imported without its noise, or one sentence why they cannot be used."""

from __future__ import annotations

import logging
import warnings
from importlib import import_module

from lbgnas.errors import LbgnasError

_NEEDED = (
    "torchmetrics",
    "pytorch_lightning",
    "nni.nas.experiment",
    "nni.nas.evaluator.pytorch",
    "nni.nas.hub.pytorch",
    "nni.nas.strategy",
    "nni.nas.oneshot.pytorch.supermodule.differentiable",
)
_INSTALL = "pip install 'lbgnas[nni]'"


class _Told(logging.Filter):
    """Lets a remark through that is not the one NNI makes ten times for every one-shot experiment."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "`training_service` will be ignored" not in str(record.msg)


def require_host() -> None:
    """Import what the plugin needs of NNI.

    Raises:
        LbgnasError: NNI or Lightning is missing, broken or of another version.
    """
    with warnings.catch_warnings():
        # Two classes of this torch that NNI's wrappers stumble on, and deprecations inside NNI and Lightning.
        warnings.simplefilter("ignore")
        for name in _NEEDED:
            try:
                import_module(name)
            except ModuleNotFoundError as error:
                raise LbgnasError(f"lbgnas.nni: needs {error.name}, which is not installed; {_INSTALL}") from error
            except (ImportError, AttributeError, TypeError, ValueError, RuntimeError, OSError) as error:
                reason = (str(error) or type(error).__name__).splitlines()[0][:160]
                raise LbgnasError(f"lbgnas.nni: {name} cannot be imported ({reason}); {_INSTALL}") from error
    version = str(getattr(import_module("nni"), "__version__", "unknown"))
    if not version.startswith("3."):
        raise LbgnasError(f"lbgnas.nni: NNI is of version {version}, and 3.0 is needed; {_INSTALL}")
    remarks = logging.getLogger("nni.nas.experiment.config.experiment")
    if not any(isinstance(known, _Told) for known in remarks.filters):
        remarks.addFilter(_Told())


require_host()

import nni.trial as trial  # noqa: E402
from nni.nas.evaluator.pytorch import DataLoader  # noqa: E402
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, ParametrizedModule  # noqa: E402
from nni.nas.nn.pytorch.cell import preprocess_cell_inputs  # noqa: E402
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule  # noqa: E402
from nni.nas.oneshot.pytorch.supermodule.differentiable import (  # noqa: E402
    DifferentiableMixedCell,
    DifferentiableMixedLayer,
)
from nni.nas.oneshot.pytorch.supermodule.sampling import PathSamplingCell  # noqa: E402
from nni.nas.strategy import DARTS  # noqa: E402

__all__ = [
    "DARTS",
    "BaseOneShotLightningModule",
    "DataLoader",
    "DifferentiableMixedCell",
    "DifferentiableMixedLayer",
    "LayerChoice",
    "ModelSpace",
    "ParametrizedModule",
    "PathSamplingCell",
    "preprocess_cell_inputs",
    "trial",
]
