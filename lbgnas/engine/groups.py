"""Grouping without a search: fixed networks as experts, the methods to compare with, and their test."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lbgnas.data.batches import batches, num_steps
from lbgnas.data.image_data import ImageData
from lbgnas.data.seeds import derive_seed
from lbgnas.data.sources import open_pool, open_test
from lbgnas.data.split import Split, bootstrap_sample, load_split, make_split, save_split
from lbgnas.data.transforms import padded_size
from lbgnas.engine.group_stage import GroupStage
from lbgnas.engine.grouped_model import GroupedModel, save_model
from lbgnas.engine.inference import answers, gate_groups
from lbgnas.engine.interrupts import Interrupts
from lbgnas.engine.measures import Measures, measure, predictions_csv
from lbgnas.engine.plain_training import PlainTraining, mixture_batch_loss, network_loss
from lbgnas.engine.reporting import Reporter
from lbgnas.engine.run import Run
from lbgnas.engine.run_folder import SPLIT, Metrics
from lbgnas.files import write_text
from lbgnas.group_settings import GroupSettings
from lbgnas.grouping.balance import class_weights
from lbgnas.grouping.learner import NonFinite
from lbgnas.networks.comparison import COMPARISONS, build_comparison, comparison_record
from lbgnas.networks.counting import count_parameters
from lbgnas.networks.fixed import fixed_network, parameters, shared_out
from lbgnas.networks.gates import NearestGate, make_gate
from lbgnas.networks.pretrained import pretrained_weights, take_over

_FIXED_GATES = {"ensemble": "uniform", "random-split": "random", "kmeans-split": "nearest"}


class GroupTraining(Run):
    """One run in its folder: first the groups, then each expert on its own samples, then the test split, once.

    A stopped run goes on from the step it was stopped after, to the same bits.

    Args:
        settings: everything it depends on.
        folder: the run folder, already made.
        device: where to compute.
        resume: go on from the folder's checkpoint.
        report: receives the progress.
        data: the pool, if it is not that of `settings.data`; such a run has no test split.
    """

    kind = "groups"

    def __init__(
        self,
        settings: GroupSettings,
        folder: Path,
        device: torch.device | None = None,
        resume: bool = False,
        report: Reporter | None = None,
        data: ImageData | None = None,
    ) -> None:
        super().__init__(folder, device, report)
        self.settings = settings
        self.data = data or open_pool(
            settings.data, image_size=settings.image_size, limit=settings.limit, options=settings.options
        )
        info, count = self.data.info, settings.several
        size = padded_size(info.size)
        # A preset's width is for networks of our own; a library's has one already, and `summary` says so.
        width = None if ":" in settings.experts else settings.width
        self.single = fixed_network(settings.experts, info.channels, info.num_classes, size, width)
        self.network = shared_out(self.single, count)
        self.experts = [self._expert(index) for index in range(count)]
        self.taken = self._take_over()
        self.gate, self.gate_record = self._gate(size)
        split_path = folder / SPLIT
        self.split: Split | None = None
        if settings.grouped:
            known = resume and split_path.exists()
            self.split = load_split(split_path, self.data) if known else make_split(self.data, settings.seed, 0.5)
            save_split(self.split, split_path)
        trained = ["all"] if settings.method == "moe" else [f"expert {index}" for index in range(count)]
        self.phases = [*(["groups"] if settings.grouped else []), *trained]
        self.phase = 0
        self.sums: dict[str, float] = {}
        self.stage = self._stage()
        self.start(resume)

    def _expert(self, index: int) -> nn.Module:
        torch.manual_seed(derive_seed(self.settings.seed, "network", index) % 2**63)
        if self.settings.method in COMPARISONS:
            return build_comparison(self.settings.method, self.single).to(self.device)
        return self.network.build().to(self.device)

    def _take_over(self) -> int | None:
        given = self.settings.pretrained
        if given is None:
            return None
        weights = pretrained_weights(given, self.settings.experts)
        taken = [take_over(expert, weights, f"--pretrained {given}") for expert in self.experts]
        return taken[0]

    def _gate(self, size: int) -> tuple[nn.Module | None, dict[str, Any] | None]:
        settings, channels, count = self.settings, self.data.info.channels, self.settings.several
        if count == 1 and not settings.grouped:
            return None, None
        name = _FIXED_GATES.get(settings.method, settings.gate)
        width = settings.routing.width
        torch.manual_seed(derive_seed(settings.seed, "gate") % 2**63)
        gate = make_gate(name, channels, count, size, width)
        if isinstance(gate, NearestGate):
            gate.centres.copy_(self._centres(count))
        record = {"kind": name, "in_channels": channels, "groups": count, "size": size, "width": width}
        return gate.to(self.device), record

    def _centres(self, count: int) -> Tensor:
        """Return the centres of k-means on the pool's images, unaugmented."""
        from sklearn.cluster import KMeans

        stream = batches(
            self.data, torch.arange(len(self.data)), 512, seed=0, words=("centres",), augment=False, shuffle=False
        )
        features = torch.cat([NearestGate.features(images) for images, _, _ in stream])
        seed = derive_seed(self.settings.seed, "centres") % 2**31
        found = KMeans(count, n_init=3, random_state=seed).fit(features.numpy())
        return torch.from_numpy(found.cluster_centers_).float()

    def _stage(self) -> GroupStage | PlainTraining | None:
        """Return the phase under way, from its start; None after the last."""
        if self.phase == len(self.phases):
            return None
        phase, settings = self.phases[self.phase], self.settings
        if phase == "groups":
            assert self.gate is not None
            assert self.split is not None
            return GroupStage(settings, self.data, self.split, self.experts, self.gate, self.device)
        if phase == "all":
            assert self.gate is not None
            rows, loss = torch.arange(len(self.data)), mixture_batch_loss(self.gate, self.experts)
            return PlainTraining(settings, self.data, rows, phase, [*self.experts, self.gate], loss, self.device)
        index = int(phase.removeprefix("expert "))
        rows, expert = self.own()[index], self.experts[index]
        loss = network_loss(expert, self.class_weights(rows))
        return PlainTraining(settings, self.data, rows, phase, [expert], loss, self.device)

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        return {"settings": self.settings.model_dump_json(), "data": self.data.fingerprint()}

    def summary(self) -> str:
        """Return what is trained, with actual sizes."""
        settings, each = self.settings, count_parameters(self.experts[0])
        total, single = each * len(self.experts), parameters(self.single)
        shape = f"{'-'.join(map(str, self.network.depths))} blocks, width {self.network.width}, "
        if not self.network.depths or settings.method in COMPARISONS:
            shape = ""
        lines = [
            f"{settings.method}: {len(self.experts)} x {settings.experts}, {shape}{total:,} parameters together; "
            f"the single network has {single:,}"
        ]
        if self.gate is not None:
            lines.append(f"gate {(self.gate_record or {})['kind']}: {count_parameters(self.gate):,} parameters")
        if len(self.experts) > 1 and not self.network.depths:
            lines.append("a library's network is taken as it is: name a smaller one for experts of a matching size")
        if ":" in settings.experts and settings.width is not None:
            lines.append(f"width {settings.width} has no effect: {settings.experts} has its own")
        if self.taken is not None:
            lines.append(f"pretrained: {self.taken:,} of {each:,} parameters of each expert")
        return "\n".join(lines)

    def own(self) -> list[Tensor]:
        """Return the samples each expert is trained on: all of the pool, as the gate sends them."""
        everything, count = torch.arange(len(self.data)), len(self.experts)
        if self.gate is None:
            return [everything]
        if self.settings.method == "ensemble":
            return [bootstrap_sample(len(everything), self.settings.seed, index) for index in range(count)]
        if self.settings.method == "moe":
            return [everything] * count
        group = gate_groups(self.gate, self.data, everything, self.device).argmax(1)
        return [(group == index).nonzero()[:, 0] for index in range(count)]

    def run(self) -> Measures:
        """Train, open the test split once, write the results and the model; raises what `train` raises."""
        self.train()
        return self._finish()

    def train(self) -> None:
        """Go through all phases that are left.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM; the checkpoint is written.
            LbgnasError: for a loss that is not finite; the last epoch's checkpoint remains.
        """
        lengths = [self._length(phase) for phase in self.phases]
        steps = [self._expected_steps(phase) * length for phase, length in zip(self.phases, lengths, strict=True)]
        done = sum(steps[: self.phase]) + self.step_in_epoch
        if self.phase < len(self.phases):
            done += self._expected_steps(self.phases[self.phase]) * self.epoch
        first = sum(lengths[: self.phase]) + self.epoch
        with self.under_way("groups", sum(steps), done, range(first)) as (interrupts, metrics):
            while self.stage is not None:
                self._run_phase(self.stage, interrupts, metrics, sum(lengths[: self.phase]))

    def _length(self, phase: str) -> int:
        return self.settings.epochs if phase == "groups" else self.settings.finetune.epochs

    def _expected_steps(self, phase: str) -> int:
        """Return the steps of one epoch, as if the groups were equal: they are not known beforehand."""
        count = len(self.data)
        if phase == "groups" and self.split is not None:
            count = len(self.split.train)
        elif phase.startswith("expert") and self.settings.method != "ensemble":
            count = -(-count // len(self.experts))
        return num_steps(count, self.settings.batch_size)

    def _run_phase(
        self, stage: GroupStage | PlainTraining, interrupts: Interrupts, metrics: Metrics, before: int
    ) -> None:
        phase = self.phases[self.phase]
        if isinstance(stage, PlainTraining) and stage.exhausted(0):
            self.report.say(f"{phase}: too few samples to train, the gate's other choices take over")
        while not stage.exhausted(self.epoch):
            record = {"epoch": before + self.epoch, "phase": phase, **self._run_epoch(stage, interrupts)}
            self.epoch, self.step_in_epoch, self.sums = self.epoch + 1, 0, {}
            metrics.write(record)
            self.save()
            shown = " ".join(f"{k} {_short(v)}" for k, v in record.items() if k not in ("epoch", "phase"))
            self.report.epoch(f"{phase} | epoch {self.epoch}/{self._length(phase)} | {shown}", record)
            if interrupts.received is not None:
                self.stop(f"after epoch {self.epoch} of {phase}", interrupts.received)
        stage.go_back()
        self.phase, self.epoch = self.phase + 1, 0
        self.stage = self._stage()
        self.save()

    def _run_epoch(self, stage: Any, interrupts: Interrupts) -> dict[str, Any]:
        """Take the steps of the epoch that are left, and return its record."""
        started, where = time.monotonic(), self.phases[self.phase]
        stage.begin_epoch(self.epoch)
        for batch in stage.stream(self.epoch, self.step_in_epoch):
            try:
                losses = stage.step(batch, self.epoch, self.step_in_epoch)
            except NonFinite as error:
                raise NonFinite(f"{where}, epoch {self.epoch + 1}, step {self.step_in_epoch + 1}: {error}") from None
            self.sums = {name: self.sums.get(name, 0.0) + value for name, value in losses.items()}
            self.step_in_epoch += 1
            means = {name: value / self.step_in_epoch for name, value in self.sums.items()}
            self.report.step(means)
            if interrupts.received is not None and self.step_in_epoch < stage.steps:
                at = f"in epoch {self.epoch + 1} of {where} after {self.step_in_epoch} of {stage.steps} steps"
                self.stop(at, interrupts.received)
        return {**stage.end_epoch(self.epoch, means), "seconds": time.monotonic() - started}

    def class_weights(self, rows: Tensor) -> Tensor | None:
        """Return the weight of each class in an expert's own group, None where all weigh the same."""
        if self.settings.expert_balance == "none":
            return None
        counts = torch.bincount(self.data.labels[rows], minlength=self.data.info.num_classes)
        return class_weights(counts[None].float())[0].to(self.device)

    def content(self) -> dict[str, Any]:
        """Return everything the run depends on from here."""
        return {
            "epoch": self.epoch,
            "step": self.step_in_epoch,
            "phase": self.phase,
            "experts": [expert.state_dict() for expert in self.experts],
            "gate": None if self.gate is None else self.gate.state_dict(),
            "stage": None if self.stage is None else self.stage.state_dict(),
            "sums": self.sums,
        }

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take over what `content` returned."""
        self.epoch, self.step_in_epoch = int(content["epoch"]), int(content["step"])
        self.phase = int(content["phase"])
        self.sums = {str(name): float(value) for name, value in content["sums"].items()}
        for expert, state in zip(self.experts, content["experts"], strict=True):
            expert.load_state_dict(state)
        if self.gate is not None:
            self.gate.load_state_dict(content["gate"])
        self.stage = self._stage()
        if self.stage is not None:
            self.stage.load_state_dict(content["stage"])

    def model(self) -> GroupedModel:
        """Return gate and experts as they stand, as one module."""
        return GroupedModel(self.gate, self.experts, self.data.info, [len(rows) >= 2 for rows in self.own()])

    def _finish(self) -> Measures:
        own = self.own()
        trained = [len(rows) >= 2 for rows in own]
        test = open_test(
            self.settings.data,
            image_size=self.settings.image_size,
            limit=self.settings.limit,
            options=self.settings.options,
        )
        found = answers(self.gate, self.experts, test, torch.arange(len(test)), self.device, all_experts=True)
        measures = measure(found, test, self.experts, self.gate, [len(rows) for rows in own], trained)
        record = self.network.to_dict()
        if self.settings.method in COMPARISONS:
            record = comparison_record(self.settings.method, self.single)
        save_model(self.folder, self.model(), [record] * len(self.experts), self.gate_record)
        write_text(self.folder / "results.json", json.dumps(measures.to_dict(), indent=1))
        write_text(self.folder / "results.md", measures.to_markdown())
        write_text(self.folder / "predictions.csv", predictions_csv(found, test, trained))
        return measures


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list):
        return "/".join(_short(item) for item in value)
    return str(value)
