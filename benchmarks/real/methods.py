"""What is compared on real images: a search, a split of the pool among experts, and how these are trained."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from benchmarks.real import training
from lbgnas import api, fairness
from lbgnas.data.batches import batches
from lbgnas.data.image_data import ImageData
from lbgnas.data.seeds import derive_seed, generator
from lbgnas.data.sources import open_pool, open_test
from lbgnas.data.split import stratified_halves
from lbgnas.data.transforms import padded_size
from lbgnas.engine.inference import answers, gate_groups
from lbgnas.engine.result import load_gate
from lbgnas.engine.run_folder import GENOTYPE
from lbgnas.genotype import CellGenotype, load
from lbgnas.networks.counting import count_macs, count_parameters
from lbgnas.networks.gates import NearestGate
from lbgnas.networks.stacked import StackedNetwork

GROUPS = 2


@dataclass(frozen=True)
class Scale:
    """How large searches and trainings are; a supernet has half of its channels without partial channels.

    architecture_rate: ten times that of DARTS, for a search of few steps.
    parameters: of all experts and the gate together, in every method.
    """

    search_images: int = 2000
    search_batch: int = 128
    search_epochs: int = 2
    architecture_rate: float = 3e-3
    supernet_channels: int = 8
    gate_width: int = 4
    images: int | None = None
    epochs: int = 1
    cells: int = 3
    parameters: int = 24_000


FULL = Scale()
QUICK = Scale(search_images=300, search_epochs=2, images=2000, epochs=2)
WIDTHS = range(4, 33)


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        grouping: of the search.
        search: other settings of the search.
        balanced: whether classes weigh the same inside each expert's group.
        clusters: whether k-means splits the pool, with the architecture of the search for every expert.
        told: whether the attribute is known in training (Group DRO).
        half: whether there are half of the parameters: a single network that costs what one of two experts does.
        steps: whether each expert takes as many steps as a single network on all samples, in place of as many epochs of
            its own samples: as many MACs in training as that network.
    """

    grouping: str = "none"
    search: Mapping[str, Any] = field(default_factory=dict)
    balanced: bool = False
    clusters: bool = False
    told: bool = False
    half: bool = False
    steps: bool = False


CLASS = {"expert_balance": "class"}
FROZEN = {"assignments": {"frozen": True}}
METHODS = {
    "base": Method(),
    "base, half the parameters": Method(half=True),
    "base, class-balanced": Method(balanced=True),
    "group DRO (told the attribute)": Method(told=True),
    "k-means": Method(clusters=True),
    "k-means, class-balanced": Method(clusters=True, balanced=True),
    "lbg": Method("lbg"),
    "lbg, steps of base": Method("lbg", steps=True),
    "lbg, class-balanced": Method("lbg", CLASS, balanced=True),
    "lbg, frozen C, class-balanced": Method("lbg", CLASS | FROZEN, balanced=True),
    "dalbg": Method("dalbg"),
    "dalbg, class-balanced": Method("dalbg", CLASS, balanced=True),
}
DATA = {
    "fashion-mnist": {"image_size": 12},
    "coloured-fashion-mnist": {"image_size": 12},
    "marked-fashion-mnist": {},
}


def opened(data: str, part: str, scale: Scale) -> ImageData:
    """Return a part of a data set at the scale's size."""
    opener = open_pool if part == "pool" else open_test
    return opener(data, image_size=DATA[data].get("image_size"), limit=scale.images)


def searched(method: Method, data: str, base: str, seed: int, scale: Scale, runs: Path) -> tuple[Path, float]:
    """Search, or find what was searched before; return the genotype's path and the CPU seconds that it took."""
    words = [data, base, method.grouping, *sorted(method.search), f"seed{seed}"]
    folder = runs / "-".join(words)
    path, spent = folder / GENOTYPE, runs / f"{folder.name}.seconds"
    if not (path.exists() and spent.exists()):
        started = time.process_time()
        if folder.exists():  # a search that was cut off
            shutil.rmtree(folder)
        api.search(
            folder,
            base=base,
            grouping=method.grouping,
            num_experts=GROUPS,
            seed=seed,
            data=data,
            **DATA[data],
            limit=scale.search_images,
            batch_size=scale.search_batch,
            epochs=scale.search_epochs,
            network={"cells": scale.cells, "channels": scale.supernet_channels // (1 if base == "pcdarts" else 2)},
            gate={"width": scale.gate_width},
            architecture={"rate": scale.architecture_rate},
            **method.search,
        )
        spent.write_text(str(time.process_time() - started))
    return path, float(spent.read_text())


def clusters(data: ImageData, rows: Tensor, seed: int) -> nn.Module:
    """Return the gate of k-means on the pixels."""
    stream = batches(data, rows, 512, seed=seed, words=("clusters",), augment=False, shuffle=False)
    features = torch.cat([NearestGate.features(batch.images) for batch in stream])
    found = KMeans(GROUPS, n_init=3, random_state=seed).fit(features.numpy())
    gate = NearestGate(data.info.channels, GROUPS)
    gate.centres.copy_(torch.from_numpy(found.cluster_centers_))
    return gate


def network(cell: CellGenotype, parameters: float, data: ImageData, cells: int) -> StackedNetwork:
    """Return the network of a cell that comes closest to so many parameters by its width."""
    info = data.info

    def build(channels: int) -> StackedNetwork:
        return StackedNetwork(cell, cells, channels, info.num_classes, info.channels)

    def distance(channels: int) -> float:
        with torch.device("meta"):
            return abs(count_parameters(build(channels)) - parameters)

    return build(min(WIDTHS, key=distance))


def halves(pool: ImageData, seed: int) -> tuple[Tensor, Tensor]:
    """Return the samples for validation error and those to train on."""
    return stratified_halves(pool.labels, 1 / 12, generator(seed, "held out"))


def is_base(name: str, data: str, seed: int, scale: Scale) -> bool:
    """Return whether a method trains just what "base" does: classes that are equally frequent weigh the same anyhow."""
    if METHODS[name] != Method(balanced=True):
        return False
    pool = opened(data, "pool", scale)
    counts = torch.bincount(pool.labels[halves(pool, seed)[1]])
    return bool((counts == counts[0]).all())


def measured(data: str, base: str, name: str, seed: int, scale: Scale, runs: Path) -> dict[str, object]:
    """Run one method and return its row."""
    method = METHODS[name]
    path, search_seconds = searched(method, data, base, seed, scale, runs)
    genotype = load(path)
    pool = opened(data, "pool", scale)
    held, rows = halves(pool, seed)
    started = time.process_time()
    cells, gate = list(genotype.experts), load_gate(path, genotype)
    if method.clusters:
        cells, chosen = cells * GROUPS, clusters(pool, rows, seed)
    else:
        chosen = gate
    group = gate_groups(chosen, pool, rows, torch.device("cpu")).argmax(1)
    experts: list[nn.Module] = []
    wanted = scale.parameters / (2 if method.half else 1)
    each = (wanted - (count_parameters(chosen) if chosen else 0)) / len(cells)
    for index, cell in enumerate(cells):
        torch.manual_seed(derive_seed(seed, "network", index) % 2**63)
        own, expert = rows[group == index], network(cell, each, pool, scale.cells)
        loss: training.Loss = training.plain
        if method.told:
            loss = training.GroupDro(pool.labels, pool.attribute)
        elif method.balanced:
            loss = training.class_balanced(pool.labels[own], pool.info.num_classes)
        if len(own) > 1:
            steps = scale.epochs * training.epoch_steps(rows if method.steps else own)
            training.train(expert, pool, own, loss, steps, seed)
        experts.append(expert.eval())
    seconds = time.process_time() - started
    size = padded_size(pool.info.size)
    macs = [count_macs(expert, pool.info.channels, size) for expert in experts]
    shares = torch.bincount(group, minlength=len(cells)) / len(group)
    gate_macs = 0 if chosen is None or method.clusters else count_macs(chosen, pool.info.channels, size)
    return {
        "data": data,
        "base": base,
        "method": name,
        "seed": seed,
        "epochs": scale.epochs,
        "validation_error": _error(chosen, experts, pool, held),
        **_test_row(chosen, experts, opened(data, "test", scale)),
        "min_share": float(shares.min()),
        "parameters": sum(count_parameters(module) for module in (*experts, *([chosen] if chosen else []))),
        "macs": gate_macs + float((shares * torch.tensor(macs)).sum()),
        "search_seconds": search_seconds,
        "seconds": seconds,
    }


def _error(gate: nn.Module | None, experts: list[nn.Module], data: ImageData, rows: Tensor) -> float:
    found = answers(gate, experts, data, rows, torch.device("cpu"))
    return 100 * float((found.routed.argmax(1) != found.labels).double().mean())


def _test_row(gate: nn.Module | None, experts: list[nn.Module], test: ImageData) -> dict[str, object]:
    everyone = torch.arange(len(test))
    found = answers(gate, experts, test, everyone, torch.device("cpu"))
    predicted = found.routed.argmax(1)
    row: dict[str, object] = {
        "error": 100 * float((predicted != found.labels).double().mean()),
        "ari": None,
        "dp": None,
        "deo_sum": None,
        "worst_cell": None,
    }
    if test.attribute is None:
        return row
    told: dict[str, Any] = {"sensitive_features": test.attribute.numpy()}
    labels, answered = found.labels.numpy(), predicted.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row["dp"] = float(fairness.dp(labels, answered, **told))
        row["deo_sum"] = float(fairness.deo_sum(labels, answered, **told))
        row["worst_cell"] = 100 * float(fairness.worst_group_accuracy(labels, answered, **told))
    if len(experts) > 1:
        from sklearn.metrics import adjusted_rand_score

        row["ari"] = float(adjusted_rand_score(test.attribute, found.group))
    return row
