"""Weights to start from: a local file, or what torchvision or timm downloaded before. Nothing is downloaded."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import torch
from torch import Tensor, nn

from lbgnas.errors import LbgnasError
from lbgnas.networks.fixed import PUBLISHED, ThreeChannels

_CACHED = {"resnet18": "resnet18", "swin_t": "swin_t"}


def pretrained_weights(given: str, name: str) -> dict[str, Tensor]:
    """Return the weights of `--pretrained given` for the network `name`.

    Args:
        given: a file (.safetensors, or a state dict saved by torch), or "cache".
        name: as for `--experts`.

    Raises:
        LbgnasError: a file that is missing or holds no weights; a network for which no cache is known.
    """
    path = _cached(name) if given == "cache" else Path(given).expanduser()
    if not path.is_file():
        raise LbgnasError(f"--pretrained {given}: {path} is not there, and nothing is downloaded")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: object = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, BadZipFile, pickle.UnpicklingError) as error:
        raise LbgnasError(f"{path}: holds no weights ({' '.join(str(error).split())[:120]})") from None
    while isinstance(content, Mapping):
        inner = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise LbgnasError(f"{path}: holds no weights by name")
    return {str(key).removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)}


@torch.no_grad()
def take_over(network: nn.Module, weights: Mapping[str, Tensor], where: str) -> int:
    """Copy the weights whose name and shape the network has; return how many of its parameters they make up.

    A shallower network takes those of the blocks it has; the classifier is new unless its shape is the same.

    Raises:
        LbgnasError: if under a half of the parameters is found.
    """
    inner = network.network if isinstance(network, ThreeChannels) else network
    own = inner.state_dict()
    found = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    parameters = {name: value.numel() for name, value in inner.named_parameters()}
    taken = sum(parameters.get(name, 0) for name in found)
    total = sum(parameters.values())
    if 2 * taken < total:
        raise LbgnasError(
            f"{where}: fits {taken:,} of {total:,} parameters by name and shape; at least a half is needed"
        )
    for name, value in found.items():
        own[name].copy_(value)
    return taken


def _cached(name: str) -> Path:
    library, _, rest = name.partition(":")
    if library == "timm":
        from huggingface_hub import try_to_load_from_cache
        from timm import get_pretrained_cfg

        published = get_pretrained_cfg(rest)
        place = None if published is None else published.hf_hub_id
        found = try_to_load_from_cache(place, "model.safetensors") if place else None
        if not isinstance(found, str):
            raise LbgnasError(f"--pretrained cache: timm has not downloaded {rest} on this machine")
        return Path(found)
    from torchvision import models

    rest = rest if library == "torchvision" else _CACHED.get(name, "")
    if not rest:
        raise LbgnasError(
            f"--pretrained cache: no published weights of {name} are known; give a file, or take "
            f"{', '.join(_CACHED)} of {', '.join(PUBLISHED)}"
        )
    weights = models.get_model_weights(rest).DEFAULT
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
