"""The evaluation stage: each expert's cells stacked and trained on its own samples, then the test split, once."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lbgnas.config import DataOptions, EvaluationSettings, validated
from lbgnas.data.batches import Batch, batches, ends_alone, num_steps
from lbgnas.data.image_data import ImageData
from lbgnas.data.seeds import derive_seed
from lbgnas.data.sources import open_pool, open_test
from lbgnas.data.split import bootstrap_sample
from lbgnas.engine.checkpoint import to_device
from lbgnas.engine.compiled import compiled
from lbgnas.engine.grouped_model import GroupedModel, save_model, stacked_record
from lbgnas.engine.inference import answers, gate_groups
from lbgnas.engine.interrupts import Interrupts
from lbgnas.engine.measures import Measures, measure, predictions_csv
from lbgnas.engine.plain_training import weighted_loss
from lbgnas.engine.reporting import Reporter
from lbgnas.engine.result import load_gate, searched_space
from lbgnas.engine.run import Run
from lbgnas.engine.run_folder import CHECKPOINT, Metrics
from lbgnas.engine.schedules import cosine, ramp
from lbgnas.errors import LbgnasError
from lbgnas.files import write_text
from lbgnas.genotype import CellGenotype, load, resolve
from lbgnas.grouping.balance import class_weights
from lbgnas.grouping.learner import NonFinite
from lbgnas.networks.counting import count_parameters
from lbgnas.networks.gates import UniformGate
from lbgnas.networks.layout import Stem, size_multiple
from lbgnas.networks.sizing import expert_size
from lbgnas.networks.stacked import StackedNetwork
from lbgnas.ranks import ALONE, Ranks

RESULTS, PREDICTIONS = "results.json", "predictions.csv"
MEETING_SECONDS = 10.0
"""Processes train so long before they wait for each other: their cores are not equally fast from second to second."""


class Progress(NamedTuple):
    """How far one expert's training has come.

    Attributes:
        epoch, step: that come next.
        loss_sum: of the steps of that epoch so far.
        optimizer: its state; None before the first step and after the last.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    optimizer: dict[str, Any] | None = None


class Evaluation(Run):
    """One evaluation run in its folder.

    Args:
        settings: everything it depends on.
        folder: the run folder, already made.
        device: where to compute.
        resume: go on from the folder's checkpoint.
        report: receives the progress.
        ranks: the processes that share the experts: each trains its own, all at once.
    """

    kind = "evaluation"

    def __init__(
        self,
        settings: EvaluationSettings,
        folder: Path,
        device: torch.device | None = None,
        resume: bool = False,
        report: Reporter | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__(folder, device, report, ranks)
        self.settings = settings
        path = resolve(settings.genotype)
        self.genotype = load(path)
        self.cells = list(self.genotype.experts)
        gate = load_gate(path, self.genotype)
        self.gate_record: dict[str, Any] | None = None if gate is None else gate.record
        self.gate: nn.Module | None = None if gate is None else gate.to(self.device)
        if settings.ensemble is not None:
            self._bag(settings.ensemble)
        ranks.require(len(self.cells))
        searched = self.genotype.provenance.get("settings")
        names = ("data", "image_size", "limit", "expert_balance", *DataOptions.model_fields)
        inherited = (
            {name: searched[name] for name in names if name in searched} if isinstance(searched, Mapping) else {}
        )
        before = validated(EvaluationSettings, inherited, f"{path}: provenance.settings")
        self.spec = settings.data or before.data or "coloured-digits"
        self.image_size = settings.image_size or before.image_size
        self.limit = settings.limit or before.limit
        # Options belong to a data set: other data do not inherit them.
        inherits = settings.data is None or settings.data == before.data
        self.options = DataOptions(
            **(before.options.model_dump() if inherits else {}) | settings.options.model_dump(exclude_defaults=True)
        )
        self.data = open_pool(self.spec, image_size=self.image_size, limit=self.limit, options=self.options)
        info = self.data.info
        if gate is not None and gate.record["in_channels"] != info.channels:
            raise LbgnasError(
                f"--data {self.spec}: has {info.channels} channels, the gate of {path} was made for "
                f"{gate.record['in_channels']}"
            )
        self.space = searched_space(self.genotype)
        self.stem: Stem = settings.stem or self.space.stem
        self.sizes = [self._size(cell) for cell in self.cells]
        points = self.space.reduction_points
        self.multiple = max(4, *(size_multiple(cells, self.stem, points) for cells, _ in self.sizes))
        everyone = torch.arange(len(self.data))
        # Gates that differ in the last bit could give a sample to two processes, or to none.
        self.probs = ranks.of_first(lambda: gate_groups(self.gate, self.data, everyone, self.device, self.multiple))
        group = self.probs.argmax(1)
        self.own = [(group == index).nonzero()[:, 0] for index in range(len(self.cells))]
        if settings.ensemble is not None:
            self.own = [bootstrap_sample(len(self.data), settings.seed, index) for index in range(len(self.cells))]
        self.trained = [len(rows) >= 2 for rows in self.own]
        self.class_weights: Tensor | None = None
        if (settings.expert_balance or before.expert_balance) == "class":
            counts = torch.stack(
                [torch.bincount(self.data.labels[rows], minlength=info.num_classes) for rows in self.own]
            )
            self.class_weights = class_weights(counts.float()).to(self.device)
        self.networks = [self._network(index) for index in range(len(self.cells))]
        self.passes = compiled(self.networks, self.device) if settings.compile else list(self.networks)
        self.progress = [Progress() for _ in self.cells]
        self.epochs_alone = 1
        self.take_up(self._next())
        self.start(resume)

    def _bag(self, count: int) -> None:
        """Take one architecture so many times over; each answer weighs the same.

        Raises:
            LbgnasError: for a genotype of several experts.
        """
        if len(self.cells) > 1:
            raise LbgnasError(
                f"--ensemble {count}: {self.genotype.name} has {len(self.cells)} experts; a genotype with one is needed"
            )
        self.cells *= count
        self.gate = UniformGate(count)
        self.gate_record = {"kind": "uniform", "in_channels": 0, "groups": count}

    def _size(self, cell: CellGenotype) -> tuple[int, int]:
        settings = self.settings

        def count(cells: int, channels: int) -> int:
            with torch.device("meta"):
                return count_parameters(self._build(cell, cells, channels, auxiliary=False))

        cells, channels = expert_size(count, settings.network.cells, settings.network.channels, len(self.cells))
        return settings.layers or cells, settings.channels or channels

    def _build(self, cell: CellGenotype, cells: int, channels: int, auxiliary: bool) -> StackedNetwork:
        info = self.data.info
        return StackedNetwork(
            cell,
            cells,
            channels,
            info.num_classes,
            info.channels,
            auxiliary,
            self.stem,
            self.stem == "cifar" or self.space.auxiliary_head_norm,
            self.space.reduction_points,
        )

    def _network(self, index: int) -> StackedNetwork:
        torch.manual_seed(derive_seed(self.settings.seed, "network", index) % 2**63)
        cells, channels = self.sizes[index]
        network = self._build(self.cells[index], cells, channels, self.settings.auxiliary_weight > 0)
        return network.to(self.device)

    def _optimizer(self) -> torch.optim.SGD:
        weights = self.settings.weights
        network = self.networks[min(self.expert, len(self.networks) - 1)]
        return torch.optim.SGD(
            network.parameters(), weights.rate, weights.momentum, weight_decay=weights.decay, nesterov=False
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        return {
            "base": self.genotype.base,
            "grouping": self.genotype.grouping,
            "experts": [cell.short() for cell in self.cells],
            "sizes": [list(size) for size in self.sizes],
            "data": self.data.fingerprint(),
            "settings": self.settings.model_dump_json(),
        }

    def content(self) -> dict[str, Any]:
        """Return everything the evaluation depends on from here."""
        return {
            "progress": [progress._asdict() for progress in self.progress],
            "networks": [network.state_dict() for network in self.networks],
        }

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take over a checkpoint's content."""
        for network, state in zip(self.networks, content["networks"], strict=True):
            network.load_state_dict(state)
        known = [Progress(**own) for own in content["progress"]]
        self.progress = [own for own, _ in zip(known, self.networks, strict=True)]
        self.take_up(self._next())

    def gather(self) -> None:
        """Note how far the expert under way has come, and bring that and its weights to all processes."""
        index = self.expert
        if index < len(self.networks):
            last = self.epoch == self.settings.epochs
            state = None if last else self.optimizer.state_dict()
            self.progress[index] = Progress(self.epoch, self.step_in_epoch, self.loss_sum, state)
        if self.ranks.count == 1:
            return
        part = {}
        if index < len(self.networks):
            part[index] = [self.progress[index]._asdict(), self.networks[index].state_dict()]
        for each in self.ranks.gathered(to_device(part, torch.device("cpu"))):
            for other, (progress, weights) in each.items():
                if not self.ranks.owns(other):
                    self.progress[other] = Progress(**progress)
                    self.networks[other].load_state_dict(weights)

    def steps(self, index: int) -> int:
        """Return the steps of an epoch of one expert."""
        if not self.trained[index]:
            return 0
        count, size = len(self.own[index]), self.settings.batch_size
        return num_steps(count, size, ends_alone(count, size))

    def run(self) -> Measures:
        """Train every expert, open the test split once, write results.json and the experts' weights.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM; the checkpoint is written.
            LbgnasError: for a loss that is not finite; the last checkpoint remains.
        """
        epochs = self.settings.epochs
        total = sum(self.steps(index) for index in range(len(self.own))) * epochs
        done = sum(self._taken())
        self._tell_sizes()
        records = {index * epochs + epoch for index, own in enumerate(self.progress) for epoch in range(own.epoch)}
        with self.under_way("evaluate", total, done, records) as (interrupts, metrics):
            while any(self._unfinished(index) for index in range(len(self.networks))):
                self._run_epochs(interrupts, metrics)
        return self._finish()

    def _tell_sizes(self) -> None:
        for index, (cells, channels) in enumerate(self.sizes):
            count = count_parameters(self.networks[index])
            note = "" if self.trained[index] else "; too few to train, the gate's other choices take over"
            self.report.say(
                f"expert {index}: {cells} cells, {channels} channels, {count:,} parameters, "
                f"{len(self.own[index])} training samples{note}"
            )

    def _unfinished(self, index: int) -> bool:
        return self.trained[index] and self.progress[index].epoch < self.settings.epochs

    def _next(self) -> int:
        """Return the first of this process's experts that is not finished, K if all are."""
        own = [index for index in range(len(self.networks)) if self.ranks.owns(index) and self._unfinished(index)]
        return own[0] if own else len(self.networks)

    def take_up(self, index: int) -> None:
        """Go on with an expert's training where it is."""
        self.expert = index
        known = self.progress[index] if index < len(self.networks) else Progress()
        self.epoch, self.step_in_epoch, self.loss_sum, state = known
        self.optimizer = self._optimizer()
        if state is not None:
            self.optimizer.load_state_dict(state)

    def _run_epochs(self, interrupts: Interrupts, metrics: Metrics) -> None:
        """Train an epoch of one expert, or several in each of several processes, and write down what all have."""
        records = [each for part in self.ranks.gathered(self._train_epochs(interrupts)) for each in part]
        records.sort(key=lambda each: int(each["expert_epoch"]))
        for each in records:
            metrics.write(each)
        taken = self._taken()
        self.save()
        # The own steps were told as they were taken.
        for index, (before, now) in enumerate(zip(taken, self._taken(), strict=True)):
            for _ in range(0 if self.ranks.owns(index) else now - before):
                self.report.step({})
        for each in records:
            line = f"expert {each['expert']} | epoch {each['expert_epoch'] + 1}/{self.settings.epochs}"
            self.report.epoch(f"{line} | loss {each['loss']:.3f} | {each['seconds']:.1f}s", each)
        if self.ranks.count > 1 and records:
            self.epochs_alone = max(1, int(MEETING_SECONDS / max(each["seconds"] for each in records)))
        received = self.ranks.signal(interrupts.received)
        if received is not None:
            done, total = (sum(parts) for parts in zip(*map(self._epochs, range(len(self.networks))), strict=True))
            self.stop(f"after {done} of {total} epochs of all experts", received)
        if self.epoch == self.settings.epochs:
            self.take_up(self._next())

    def _train_epochs(self, interrupts: Interrupts) -> list[dict[str, Any]]:
        """Train epochs of the expert under way until all meet, and return their records."""
        records: list[dict[str, Any]] = []
        if self.expert == len(self.networks):
            return records
        while len(records) < self.epochs_alone and self.epoch < self.settings.epochs:
            record = self._train_epoch(interrupts)
            if record is not None:
                records.append(record)
            if interrupts.received is not None:
                break
        return records

    def _epochs(self, index: int) -> tuple[int, int]:
        return self.progress[index].epoch, self.settings.epochs if self.trained[index] else 0

    def _taken(self) -> list[int]:
        """Return the steps of each expert that all processes know of."""
        return [self.steps(index) * own.epoch + own.step for index, own in enumerate(self.progress)]

    def _train_epoch(self, interrupts: Interrupts) -> dict[str, Any] | None:
        """Take the steps left of the epoch under way; return its record, None if a signal came before its end."""
        settings, started = self.settings, time.monotonic()
        network = self.networks[self.expert].train()
        network.drop_path_prob = ramp(settings.drop_path, self.epoch, settings.epochs)
        rate = cosine(settings.weights.rate, settings.weights.rate_min, self.epoch, settings.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        steps = self.steps(self.expert)
        for batch in self.batches():
            # A seed for every step: drop-path is the same whether or not the run was stopped before.
            torch.manual_seed(derive_seed(settings.seed, "step", self.expert, self.epoch, self.step_in_epoch) % 2**63)
            self.loss_sum += self.train_step(batch)
            self.step_in_epoch += 1
            self.report.step({"loss": self.loss_sum / self.step_in_epoch})
            if interrupts.received is not None and self.step_in_epoch < steps:
                return None
        record = {
            "epoch": self.expert * settings.epochs + self.epoch,
            "expert": self.expert,
            "expert_epoch": self.epoch,
            "loss": self.loss_sum / steps,
            "rate": rate,
            "seconds": time.monotonic() - started,
        }
        self.epoch, self.step_in_epoch, self.loss_sum = self.epoch + 1, 0, 0.0
        return record

    def batches(self) -> Iterator[Batch]:
        """Return the batches of the epoch under way."""
        settings = self.settings
        return batches(
            self.data,
            self.own[self.expert],
            settings.batch_size,
            seed=settings.seed,
            words=("expert", self.expert, self.epoch),
            augment=True,
            cutout=settings.cutout,
            device=self.device,
            start=self.step_in_epoch,
            drop_last=ends_alone(len(self.own[self.expert]), settings.batch_size),
            channels_last=True,
            multiple=self.multiple,
        )

    def train_step(self, batch: Batch) -> float:
        """Take one step of the expert under way, in training mode, and return the loss.

        Raises:
            NonFinite: the loss is NaN or infinite.
        """
        settings = self.settings
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits, auxiliary = self.passes[self.expert](batch.images)
        loss = self._loss(logits, batch.labels)
        if auxiliary is not None:
            loss = loss + settings.auxiliary_weight * self._loss(auxiliary, batch.labels)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFinite(
                f"expert {self.expert}, epoch {self.epoch + 1}, step {self.step_in_epoch + 1}: the training loss is "
                f"{value}; lower weights.rate or look at the data; the last checkpoint is "
                f"{self.folder / CHECKPOINT}"
            )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.networks[self.expert].parameters(), settings.weights.clip)
        self.optimizer.step()
        return value

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        weights = None if self.class_weights is None else self.class_weights[self.expert]
        return weighted_loss(logits.float(), labels, weights, self.settings.label_smoothing)

    def test_split(self) -> ImageData:
        """Open the test split."""
        return open_test(self.spec, image_size=self.image_size, limit=self.limit, options=self.options)

    def _finish(self) -> Measures:
        info, points = self.data.info, self.space.reduction_points
        records = [
            stacked_record(cell, *size, info, self.stem, points)
            for cell, size in zip(self.cells, self.sizes, strict=True)
        ]
        model = GroupedModel(self.gate, self.networks, info, self.trained, self.multiple)
        if self.ranks.first:
            save_model(self.folder, model, records, self.gate_record)
        test = self.test_split()
        found = answers(
            self.gate,
            self.networks,
            test,
            torch.arange(len(test)),
            self.device,
            all_experts=True,
            multiple=self.multiple,
            ranks=self.ranks,
        )
        counts = [len(rows) for rows in self.own]
        measures = measure(found, test, self.networks, self.gate, counts, self.trained, self.multiple)
        if not self.ranks.first:
            return measures
        told = {"base": self.genotype.base, "grouping": self.genotype.grouping, **measures.to_dict()}
        write_text(self.folder / RESULTS, json.dumps(told, indent=1))
        write_text(self.folder / PREDICTIONS, predictions_csv(found, test, self.trained))
        write_text(self.folder / "results.md", measures.to_markdown())
        return measures
