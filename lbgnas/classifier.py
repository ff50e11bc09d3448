"""Grouping in scikit-learn's conventions, for images in arrays."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from lbgnas.config import merged, validated
from lbgnas.data.checks import check_pixels
from lbgnas.data.image_data import DataInfo, TensorImages
from lbgnas.engine.grouped_model import GroupedModel, Prediction
from lbgnas.engine.groups import GroupTraining
from lbgnas.engine.interrupts import Interrupted
from lbgnas.errors import LbgnasError
from lbgnas.group_settings import GroupSettings


class GroupedClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Experts for groups of images that are found while training (LBG, DALBG), as one classifier.

    Args:
        method: lbg, dalbg, or one to compare with.
        experts: resnet18, resnet56, swin_t, t2t_vit_14, torchvision:NAME or timm:NAME.
        num_experts: K.
        width: of the network's first stage; None as published.
        gate: conv, resnet8, linear or timm:NAME.
        epochs: of the grouping.
        finetune_epochs: of each expert on its own samples.
        batch_size: images a step.
        settings: all other fields of `GroupSettings`, nested ones as dicts.
        random_state: seed; as in scikit-learn, a RandomState draws it, and None draws it from NumPy's.
        device: where to compute.

    Attributes:
        classes_: the labels seen in `fit`.
        model_: gate and experts, a torch module that takes images in [0, 1].
        image_shape_: (channels, side, side).

    Example:
        >>> images, labels = np.random.default_rng(0).random((40, 1, 8, 8)), np.arange(40) % 2
        >>> small = GroupedClassifier(experts="resnet56", width=4, epochs=1, finetune_epochs=1, batch_size=20)
        >>> small.fit(images, labels).predict_proba(images).shape
        (40, 2)
    """

    def __init__(
        self,
        method: str = "lbg",
        experts: str = "resnet18",
        num_experts: int = 2,
        width: int | None = None,
        gate: str = "conv",
        epochs: int = 100,
        finetune_epochs: int = 200,
        batch_size: int = 128,
        settings: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = 0,
        device: str = "cpu",
    ) -> None:
        self.method = method
        self.experts = experts
        self.num_experts = num_experts
        self.width = width
        self.gate = gate
        self.epochs = epochs
        self.finetune_epochs = finetune_epochs
        self.batch_size = batch_size
        self.settings = settings
        self.random_state = random_state
        self.device = device

    def fit(self, X: ArrayLike, y: ArrayLike) -> GroupedClassifier:
        """Find groups and train an expert for each.

        Args:
            X: images (N, channels, side, side) or (N, side, side); bytes, or numbers in [0, 1].
            y: labels of any kind, (N,).

        Raises:
            LbgnasError: arrays or settings that do not fit; losses that are not finite.
            KeyboardInterrupt: after Ctrl-C; SystemExit after SIGTERM.
        """
        images = _images(X)
        check_classification_targets(y)
        self.classes_, labels = np.unique(np.asarray(y), return_inverse=True)
        if labels.shape != (len(images),):
            raise LbgnasError(f"y: shape {np.shape(y)} for {len(images)} images; one label per image is needed")
        if len(self.classes_) < 2:
            raise LbgnasError(f"y: holds {len(self.classes_)} class, at least 2 are needed")
        self.image_shape_ = images.shape[1:]
        names = tuple(map(str, self.classes_.tolist()))
        scaled = torch.from_numpy(images)
        spread, mean = torch.std_mean(scaled.double(), (0, 2, 3), correction=0)
        std = tuple(torch.where(spread > 0, spread, 1.0).tolist())
        info = DataInfo("arrays", len(names), names, images.shape[1], images.shape[2], tuple(mean.tolist()), std)
        data = TensorImages(scaled, torch.from_numpy(labels), info)
        with tempfile.TemporaryDirectory() as folder:
            run = GroupTraining(self._settings(), Path(folder), torch.device(self.device), data=data)
            try:
                run.train()
            except Interrupted as stopped:
                # There is nothing to go on with: the folder is temporary.
                if stopped.signal_number == signal.SIGINT:
                    raise KeyboardInterrupt from None
                raise SystemExit(128 + stopped.signal_number) from None
            self.model_: GroupedModel = run.model().eval()
        return self

    def _settings(self) -> GroupSettings:
        named = {
            "method": self.method,
            "experts": self.experts,
            "num_experts": self.num_experts,
            "width": self.width,
            "gate": self.gate,
            "epochs": self.epochs,
            "finetune": {"epochs": self.finetune_epochs},
            "batch_size": self.batch_size,
            "seed": self._seed(),
        }
        return validated(GroupSettings, merged(named, self.settings or {}), "GroupedClassifier")

    def _seed(self) -> int:
        if isinstance(self.random_state, int):
            return self.random_state
        return int(check_random_state(self.random_state).randint(2**31))

    def __sklearn_tags__(self) -> Any:
        """Say what X is: images, in arrays of three or four dimensions."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probabilities of `classes_` by each image's own expert, (N, classes)."""
        return self._answers(X).probabilities.double().cpu().numpy()

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable label of each image, (N,)."""
        chosen = self.predict_proba(X).argmax(1)
        labels: NDArray[Any] = self.classes_[chosen]
        return labels

    def predict_group(self, X: ArrayLike) -> NDArray[np.int64]:
        """Return the expert each image is routed to, (N,)."""
        return self._answers(X).group.cpu().numpy()

    def _answers(self, X: ArrayLike) -> Prediction:
        check_is_fitted(self, "model_")
        images = _images(X)
        if images.shape[1:] != self.image_shape_:
            raise LbgnasError(f"X: images of shape {images.shape[1:]}, those in fit had {self.image_shape_}")
        parts = [self.model_.predict(part.to(self.device)) for part in torch.split(torch.from_numpy(images), 256)]
        return Prediction(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _images(X: ArrayLike) -> NDArray[np.float32]:
    array = np.asarray(X)
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or array.shape[2] != array.shape[3] or not len(array):
        raise LbgnasError(f"X: shape {np.shape(X)}; allowed are (N, channels, side, side) and (N, side, side)")
    if array.dtype.kind not in "uf":
        raise LbgnasError(f"X: {array.dtype} is not allowed; give bytes (uint8) or numbers in [0, 1]")
    if array.dtype.kind == "u":
        array = array / np.iinfo(array.dtype).max
    images = array.astype(np.float32)
    check_pixels(torch.from_numpy(images), images.shape[1], images.shape[2], "X")
    return images
