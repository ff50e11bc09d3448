"""The search stage: K supernets, the gate and C learned together, ending in a genotype file."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lbgnas.bases.base import Base, find_base
from lbgnas.config import SearchSettings
from lbgnas.data.batches import Batch, batches, num_steps
from lbgnas.data.image_data import ImageData
from lbgnas.data.seeds import derive_seed
from lbgnas.data.sources import open_pool
from lbgnas.data.split import Split, load_split, make_split, save_split
from lbgnas.data.transforms import padded_size
from lbgnas.engine.checkpoint import load_checkpoint, save_checkpoint
from lbgnas.engine.inference import accuracy, answers, gate_groups
from lbgnas.engine.interrupts import Interrupted, Interrupts
from lbgnas.engine.reporting import Reporter
from lbgnas.engine.result import write_genotype
from lbgnas.engine.run_folder import CHECKPOINT, SPLIT, Metrics
from lbgnas.engine.schedules import cosine
from lbgnas.errors import LbgnasError
from lbgnas.genotype import CellGenotype
from lbgnas.grouping.adaptation import Adaptation, find_distance
from lbgnas.grouping.assignments import RowOptimizer, initial_assignments
from lbgnas.grouping.experts import Experts
from lbgnas.grouping.hypergradient import Exact, FiniteDifference, FirstOrder, Hypergradient
from lbgnas.grouping.learner import Learner, NonFinite
from lbgnas.grouping.sgd import Sgd
from lbgnas.grouping.unrolled import Levels, Losses
from lbgnas.networks.counting import count_parameters
from lbgnas.networks.gate import SmallGate
from lbgnas.networks.layout import check_size
from lbgnas.networks.sizing import expert_cells
from lbgnas.networks.supernet import Supernet
from lbgnas.space import SearchSpace, load_space

HYPERGRADIENTS: dict[str, Hypergradient] = {
    "exact": Exact(),
    "fd": FiniteDifference(),
    "first-order": FirstOrder(),
}


class SearchResult(NamedTuple):
    """What a finished search leaves.

    Attributes:
        genotype: path of the genotype file.
        cells: the architecture of each expert.
        validation_accuracy: top-1 routed accuracy of the supernets on the validation half.
    """

    genotype: Path
    cells: tuple[CellGenotype, ...]
    validation_accuracy: float


class Search:
    """One search run in its folder.

    Args:
        settings: everything it depends on.
        folder: the run folder, already made.
        device: where to compute.
        resume: go on from the folder's checkpoint.
        report: receives the progress.
    """

    def __init__(
        self,
        settings: SearchSettings,
        folder: Path,
        device: torch.device | None = None,
        resume: bool = False,
        report: Reporter | None = None,
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.device = device or torch.device("cpu")
        self.report = report or Reporter()
        self.base: Base = find_base(settings.base)
        self.space: SearchSpace = load_space(self.base.space)
        self.data: ImageData = open_pool(
            settings.data, image_size=settings.image_size, limit=settings.limit, options=settings.options
        )
        self.cells = expert_cells(settings.network.cells, settings.experts)
        self._check()
        split_path = folder / SPLIT
        if resume and split_path.exists():
            self.split: Split = load_split(split_path, self.data)
        else:
            self.split = make_split(self.data, settings.seed)
            save_split(self.split, split_path)
        self.learner = self._build()
        self.epoch = self.step_in_epoch = 0
        self.sums: dict[str, float] = {}
        if resume and (folder / CHECKPOINT).exists():
            self._load()
        else:
            self._save()
        self.last_record: dict[str, Any] = {}

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return num_steps(len(self.split.train), self.settings.batch_size)

    def _check(self) -> None:
        settings = self.settings
        if settings.order == "reference" and settings.grouping != "none":
            raise LbgnasError(
                "order: reference is the bases' own step, for grouping none only; leave it out or use shared"
            )
        step = 2 * self.space.partial_channels
        if settings.network.channels % step:
            near = max(step, round(settings.network.channels / step) * step)
            raise LbgnasError(
                f"network.channels: {settings.network.channels} must be a multiple of {step} for base {settings.base}; "
                f"the nearest is {near}"
            )
        size = padded_size(self.data.info.size)
        check_size(size, size, self.cells, self.space.stem)

    def _build(self) -> Learner:
        settings, info = self.settings, self.data.info
        torch.manual_seed(derive_seed(settings.seed, "start") % 2**63)
        modules = [
            Supernet(self.space, self.cells, settings.network.channels, info.num_classes, info.channels)
            for _ in range(settings.experts)
        ]
        gate = logits = None
        if settings.grouping != "none":
            gate = SmallGate(info.channels, settings.experts, settings.gate.width).to(self.device)
            seed = derive_seed(settings.seed, "assignments") % 2**63
            logits = initial_assignments(len(self.data), settings.experts, seed, settings.assignments.scale)
            logits = logits.to(self.device)
        names = tuple(modules[0].architecture_parameters())
        experts = Experts(
            [module.to(self.device).to(memory_format=torch.channels_last) for module in modules], names, "classifier"
        )
        architecture = settings.architecture
        return Learner(
            experts,
            gate,
            logits,
            RowOptimizer(settings.assignments.optimizer, settings.assignments.rate),
            self.base.architecture_rate if architecture.rate is None else architecture.rate,
            architecture.decay,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        settings = self.settings
        return {
            "base": settings.base,
            "grouping": settings.grouping,
            "num_experts": settings.experts,
            "cells": self.cells,
            "channels": settings.network.channels,
            "data": self.split.fingerprint,
            "settings": settings.model_dump_json(),
        }

    def summary(self) -> str:
        """Return what is searched, with actual sizes, in two lines."""
        info, settings = self.data.info, self.settings
        single = expert_cells(settings.network.cells, 1)
        with torch.device("meta"):
            reference = Supernet(self.space, single, settings.network.channels, info.num_classes, info.channels)
        sizes = [count_parameters(module) for module in self.learner.experts.modules]
        note = f" ({info.note})" if info.note else ""
        return (
            f"{info.name}{note}: {len(self.split.train)} samples to train, {len(self.split.validation)} to validate, "
            f"{info.num_classes} classes, {info.size} px\n"
            f"{settings.base}, {settings.grouping}: {len(sizes)} x {self.cells} cells, {settings.network.channels} "
            f"channels, {sum(sizes):,} parameters together; the single network of {single} cells has "
            f"{count_parameters(reference):,}"
        )

    def warnings(self) -> list[str]:
        """Return what a user should know of how the groups ended."""
        shares = self.last_record.get("group_share", [1.0])
        least = 1 / (10 * len(shares))
        return [
            f"expert {index} got {share:.1%} of the samples, under {least:.1%}: the grouping has all but collapsed; "
            "try another seed, a larger gate.mutual_information or fewer experts"
            for index, share in enumerate(shares)
            if len(shares) > 1 and share < least
        ]

    def _save(self) -> None:
        content = {
            "epoch": self.epoch,
            "step": self.step_in_epoch,
            "sums": self.sums,
            "learner": self.learner.state_dict(),
        }
        save_checkpoint(self.folder / CHECKPOINT, "search", self.identity, content)

    def _load(self) -> None:
        path = self.folder / CHECKPOINT
        content = load_checkpoint(path, "search", self.identity)
        try:
            state = _to_device(content["learner"], self.device)
            self.epoch, self.step_in_epoch = int(content["epoch"]), int(content["step"])
            self.sums = {str(name): float(value) for name, value in content["sums"].items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise LbgnasError(f"{path}: parts of the checkpoint are missing") from None
        try:
            self.learner.load_state_dict(state)
        except LbgnasError as error:
            raise LbgnasError(f"{path}: {error}") from None

    def levels(self, epoch: int) -> Levels:
        """Return how the three levels are taken in an epoch."""
        settings = self.settings
        weights, gate = settings.weights, settings.gate
        rate = cosine(weights.rate, weights.rate_min, epoch, settings.epochs)
        adaptation = None
        if settings.grouping == "dalbg":
            adaptation = Adaptation(find_distance(settings.adaptation), settings.adaptation_weight)
        warmup = self.base.warmup if settings.architecture.warmup is None else settings.architecture.warmup
        return Levels(
            gate=Sgd(gate.rate * rate / weights.rate, gate.momentum, gate.decay),
            experts=Sgd(rate, weights.momentum, weights.decay, weights.clip),
            hypergradient=HYPERGRADIENTS[settings.hypergradient],
            adaptation=adaptation,
            mutual_information=gate.mutual_information,
            architecture=epoch >= round(warmup * settings.epochs),
        )

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Batch, Batch]]:
        common: dict[str, Any] = {
            "seed": self.settings.seed,
            "augment": True,
            "device": self.device,
            "channels_last": True,
        }
        size = self.settings.batch_size
        train = batches(self.data, self.split.train, size, words=("train", epoch), start=start, **common)
        rounds = num_steps(len(self.split.validation), size)

        def validation() -> Iterator[Batch]:
            turn, offset = divmod(start, rounds)
            while True:
                words = ("validation", epoch, turn)
                yield from batches(self.data, self.split.validation, size, words=words, start=offset, **common)
                turn, offset = turn + 1, 0

        return zip(train, validation(), strict=False)

    def run(self) -> SearchResult:
        """Search to the last epoch and write the genotype.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM; the checkpoint is written.
            LbgnasError: for non-finite losses; the checkpoint of the state before is written.
        """
        done = self.epoch * self.steps + self.step_in_epoch
        # The handlers first: opening the event files takes seconds, in which a Ctrl-C counts as well.
        with Interrupts() as interrupts:
            metrics = Metrics(self.folder, self.epoch)
            self.report.begin("search", self.settings.epochs * self.steps, done)
            try:
                while self.epoch < self.settings.epochs:
                    self._run_epoch(interrupts, metrics)
            finally:
                metrics.close()
                self.report.end()
        path, cells = self.write_result()
        return SearchResult(path, cells, self.validation_accuracy())

    def _run_epoch(self, interrupts: Interrupts, metrics: Metrics) -> None:
        started = time.monotonic()
        levels = self.levels(self.epoch)
        for module in self.learner.experts.modules:
            module.train()
        reference = self.settings.grouping == "none" and self.settings.order != "shared"
        take = self.learner.bilevel_step if reference else self.learner.step
        for train, validation in self._batches(self.epoch, self.step_in_epoch):
            try:
                losses = take(train, validation, levels)
            except NonFinite as error:
                self._save()
                raise NonFinite(
                    f"epoch {self.epoch + 1}, step {self.step_in_epoch + 1}: {error}; the state before this step is in "
                    f"{self.folder / CHECKPOINT}"
                ) from None
            self._add(losses)
            self.step_in_epoch += 1
            self.report.step({name: value / self.step_in_epoch for name, value in self.sums.items() if "loss" in name})
            if interrupts.received is not None and self.step_in_epoch < self.steps:
                self._stop(interrupts.received)
        record = self._record(levels, time.monotonic() - started)
        self.epoch, self.step_in_epoch, self.sums = self.epoch + 1, 0, {}
        # The record first: a kill between the two writes repeats the epoch and writes the same record again.
        metrics.write(record)
        self._save()
        self.last_record = record
        self.report.epoch(epoch_line(record, self.settings.epochs), record)
        if interrupts.received is not None and self.epoch < self.settings.epochs:
            self._stop(interrupts.received)

    def _stop(self, signal_number: int) -> None:
        self._save()
        raise Interrupted(
            f"stopped in epoch {self.epoch + 1} after {self.step_in_epoch} of {self.steps} steps; "
            f"go on with --resume {self.folder}",
            signal_number,
        )

    def _add(self, losses: Losses) -> None:
        values = {
            "gate_loss": losses.gate,
            "expert_loss": losses.experts,
            "validation_loss": losses.validation,
            "adaptation_loss": losses.adaptation,
            "mutual_information": losses.mutual_information,
            "gradient_norm": losses.gradient_norm,
            "correct": losses.correct,
        }
        known = {name: value for name, value in values.items() if value is not None}
        numbers = torch.stack([value.detach().double() for value in known.values()]).tolist()
        for name, number in zip(known, numbers, strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + number
        self.sums["seen"] = self.sums.get("seen", 0.0) + sum(losses.validation_groups)

    def architectures(self) -> tuple[CellGenotype, ...]:
        """Return the genotype of each expert as the alphas stand."""
        cells = []
        for own in self.learner.architecture:
            values = {name: value.detach().cpu().numpy() for name, value in own.items()}
            cells.append(self.base.derive(self.space, values))
        return tuple(cells)

    def validation_accuracy(self) -> float:
        """Return the top-1 routed accuracy on the validation half, running statistics, unaugmented."""
        found = answers(self.learner.gate, self.learner.experts.modules, self.data, self.split.validation, self.device)
        return accuracy(found.routed, found.labels)

    def _record(self, levels: Levels, seconds: float) -> dict[str, Any]:
        sums, steps = self.sums, self.steps
        probs = gate_groups(self.learner.gate, self.data, self.split.train, self.device)
        cells = self.architectures()
        record: dict[str, Any] = {
            "epoch": self.epoch,
            "losses": {
                name: sums[name] / steps
                for name in ("gate_loss", "expert_loss", "validation_loss", "adaptation_loss")
                if name in sums
            },
            "gradient_norm": sums["gradient_norm"] / steps,
            "validation_accuracy": self.validation_accuracy(),
            "supernet_accuracy": sums["correct"] / sums["seen"] if sums.get("seen") else None,
            "group_share": group_shares(probs.argmax(1), probs.shape[1]),
            "group_entropy": entropy(probs.mean(0)),
            "decision_entropy": float(torch.special.entr(probs).sum(1).mean()),
            "rate": levels.experts.rate,
            "architecture_learned": levels.architecture,
            "skips": [[cell.skips("normal"), cell.skips("reduce")] for cell in cells],
            "genotypes": [cell.short() for cell in cells],
            "seconds": seconds,
        }
        logits = self.learner.assignment_logits
        if logits is not None:
            assigned = logits[self.split.train.to(logits.device)].argmax(1).cpu()
            record["assigned_share"] = group_shares(assigned, logits.shape[1])
            record["assignment_agreement"] = float((assigned == probs.argmax(1)).float().mean())
        return record

    def write_result(self) -> tuple[Path, tuple[CellGenotype, ...]]:
        """Write the genotype file (and the gate's weights beside it) of the alphas as they stand."""
        cells = self.architectures()
        sizes = [count_parameters(module) for module in self.learner.experts.modules]
        provenance = {
            "settings": self.settings.model_dump(mode="json"),
            "data_fingerprint": self.split.fingerprint,
            "supernet_parameters": sizes,
        }
        path = write_genotype(self.folder, self.settings, self.space.name, cells, self.learner.gate, provenance)
        return path, cells


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to_device(item, device) for key, item in value.items()}
    return [_to_device(item, device) for item in value] if isinstance(value, list) else value


def group_shares(group: Tensor, count: int) -> list[float]:
    """Return the share of samples in each group."""
    shares: list[float] = (torch.bincount(group, minlength=count) / max(len(group), 1)).tolist()
    return shares


def entropy(probs: Tensor) -> float:
    """Return the entropy of a distribution in units of its largest possible value, 1 for one group alone."""
    return float(torch.special.entr(probs).sum() / math.log(len(probs))) if len(probs) > 1 else 1.0


def epoch_line(record: dict[str, Any], epochs: int) -> str:
    """Return one line that tells an epoch's record."""
    losses = record["losses"]
    short = {"gate_loss": "gate", "expert_loss": "experts", "validation_loss": "validation"}
    parts = [f"epoch {record['epoch'] + 1}/{epochs}"]
    parts.append("loss " + " ".join(f"{label} {losses[name]:.3f}" for name, label in short.items() if name in losses))
    parts.append(f"val acc {record['validation_accuracy']:.3f}")
    if len(record["group_share"]) > 1:
        shares = "/".join(f"{share:.2f}" for share in record["group_share"])
        parts.append(f"groups {shares} entropy {record['group_entropy']:.2f}")
    parts.append("skips " + " ".join(f"{normal}+{reduce}" for normal, reduce in record["skips"]))
    if not record["architecture_learned"]:
        parts.append("A frozen (warm-up)")
    parts.append(f"{record['seconds']:.1f}s")
    return " | ".join(parts) + "".join(f"\n    {k}: {text}" for k, text in enumerate(record["genotypes"]))
