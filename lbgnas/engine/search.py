"""The search stage: K supernets, the gate and C learned together, ending in a genotype file."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lbgnas.bases.base import Base, find_base
from lbgnas.bases.pdarts import prune
from lbgnas.config import SearchSettings
from lbgnas.data.batches import Batch, batches, num_steps
from lbgnas.data.image_data import ImageData
from lbgnas.data.seeds import derive_seed
from lbgnas.data.sources import open_pool
from lbgnas.data.split import Split, load_split, make_split, save_split
from lbgnas.engine.checkpoint import to_device
from lbgnas.engine.collapse import collapse_notes
from lbgnas.engine.inference import accuracy, agreement, answers, gate_groups
from lbgnas.engine.interrupts import Interrupted, Interrupts
from lbgnas.engine.plan import Plan, build_experts, build_learner, space_of, told_size
from lbgnas.engine.record import add_losses, cell_record, epoch_line, epoch_means, group_record
from lbgnas.engine.reporting import Reporter
from lbgnas.engine.result import write_genotype
from lbgnas.engine.run import Run
from lbgnas.engine.run_folder import CHECKPOINT, GENOTYPE, SPACE, SPLIT, Metrics
from lbgnas.engine.scouts import run_scouts
from lbgnas.errors import LbgnasError
from lbgnas.files import write_text
from lbgnas.genotype import CellGenotype
from lbgnas.grouping.learner import NonFinite
from lbgnas.grouping.scouting import Scouted
from lbgnas.grouping.shared import gathered_state
from lbgnas.grouping.unrolled import Levels
from lbgnas.networks.counting import count_parameters
from lbgnas.ranks import ALONE, Ranks
from lbgnas.space import SearchSpace, load_space, space_text

AGREEMENT_SAMPLES = 500


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


class Search(Run):
    """One search run in its folder.

    Args:
        settings: everything it depends on.
        folder: the run folder, already made.
        device: where to compute.
        resume: go on from the folder's checkpoint.
        report: receives the progress.
        ranks: the processes that share the experts.
    """

    kind = "search"

    def __init__(
        self,
        settings: SearchSettings,
        folder: Path,
        device: torch.device | None = None,
        resume: bool = False,
        report: Reporter | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__(folder, device, report, ranks)
        self.settings = settings
        ranks.require(settings.experts)
        if settings.order == "reference" and settings.grouping != "none":
            raise LbgnasError(
                "order: reference is the bases' own step, for grouping none only; leave it out or use shared"
            )
        self.base: Base = find_base(settings.base)
        space_path = folder / SPACE
        # The run keeps its own copy: a file of the user's may change or go before a resume.
        kept = resume and space_path.exists()
        self.space: SearchSpace = load_space(str(space_path)) if kept else space_of(settings, self.base)
        if not kept and ranks.first:
            write_text(space_path, space_text(self.space))
        self.plan = Plan(settings, self.base, self.space)
        self.data: ImageData = open_pool(
            settings.data, image_size=settings.image_size, limit=settings.limit, options=settings.options
        )
        split_path = folder / SPLIT
        if resume and split_path.exists():
            self.split: Split = load_split(split_path, self.data)
        else:
            self.split = make_split(self.data, settings.seed)
            if ranks.first:
                save_split(self.split, split_path)
        self.spaces = [self.space] * settings.experts
        self.learner = build_learner(self.plan, self.spaces, len(self.data), self.data.info, self.device, ranks)
        self.sums: dict[str, float] = {}
        self.information: float | None = None if self.wants_scouts() else self.plan.settings.gate.mutual_information
        self.start(resume)
        self.last_record: dict[str, Any] = {}

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return num_steps(len(self.split.train), self.settings.batch_size)

    def rebuild(self) -> None:
        """Build the supernets of the stage under way anew; gate and C live on."""
        stage = self.plan.place(self.epoch)[0]
        experts = build_experts(self.plan, self.spaces, stage, self.data.info, self.device, self.ranks)
        self.learner = self.learner.with_experts(experts)

    def gather(self) -> None:
        """Bring every expert, with its momentum, from its process to all."""
        if self.ranks.count > 1:
            state = gathered_state(self.ranks, to_device(self.learner.state_dict(), torch.device("cpu")))
            self.learner.load_state_dict(to_device(state, self.device))

    def summary(self) -> str:
        """Return what is searched, with actual sizes: a line for the data and one for the stage under way."""
        info = self.data.info
        note = f" ({info.note})" if info.note else ""
        line = (
            f"{info.name}{note}: {len(self.split.train)} samples to train, {len(self.split.validation)} to validate, "
            f"{info.num_classes} classes, {info.size} px"
        )
        return f"{line}\n{told_size(self.plan, self.plan.place(self.epoch)[0], self.spaces, info)}"

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        settings = self.settings
        return {
            "base": settings.base,
            "grouping": settings.grouping,
            "num_experts": settings.experts,
            "space": space_text(self.space),
            "data": self.split.fingerprint,
            "settings": settings.model_dump_json(),
        }

    def warnings(self) -> list[str]:
        """Return what a user should know of how the groups ended."""
        most = self.plan.max_skips
        skips = [cell.skips("normal") for cell in self.architectures()]
        left = [
            f"expert {index} has {count} skips in its normal cell, more than {most}: its edges have nothing else"
            for index, count in enumerate(skips)
            if most is not None and count > most
        ]
        return left + list(self.last_record.get("notes", []))

    def content(self) -> dict[str, Any]:
        """Return everything the search depends on from here."""
        operations = [{kind: list(map(list, edges)) for kind, edges in own.operations.items()} for own in self.spaces]
        return {
            "epoch": self.epoch,
            "step": self.step_in_epoch,
            "operations": operations,
            "sums": self.sums,
            "information": self.information,
            "learner": self.learner.state_dict(),
        }

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take over a checkpoint's content; the supernets are built with the operations that it names."""
        self.epoch, self.step_in_epoch = int(content["epoch"]), int(content["step"])
        state = to_device(content["learner"], self.device)
        self.sums = {str(name): float(value) for name, value in content["sums"].items()}
        self.information = None if content["information"] is None else float(content["information"])
        if len(content["operations"]) != len(self.spaces):
            raise LbgnasError(f"holds {len(content['operations'])} experts instead of {len(self.spaces)}")
        self.spaces = [self.space.with_operations(own) for own in content["operations"]]
        if self.plan.place(self.epoch)[0]:
            self.rebuild()
        self.learner.load_state_dict(state)

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Batch, Batch]]:
        """Return the pairs of training and validation batches of an epoch from step `start` on."""
        common: dict[str, Any] = {
            "seed": self.settings.seed,
            "augment": True,
            "device": self.device,
            "channels_last": True,
            "multiple": self.plan.size_multiple,
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
        total, records = self.plan.epochs * self.steps, range(self.epoch)
        with self.under_way("search", total, done, records) as (interrupts, metrics):
            if self.information is None:
                self._scout(interrupts)
            while self.epoch < self.plan.epochs:
                self._run_epoch(interrupts, metrics)
        path, cells = self.write_result()
        # Nothing was learned since the last epoch's record; a run resumed at its end has none.
        accurate = self.last_record["validation_accuracy"] if self.last_record else self.validated()[0]
        return SearchResult(path, cells, accurate)

    def wants_scouts(self) -> bool:
        """Return whether the settings ask for scouts that groups could use."""
        return self.plan.settings.gate.scouts > 0 and self.plan.settings.experts > 1

    def _scout(self, interrupts: Interrupts) -> None:
        """Let scouts find a start for gate and C, and how much the information term weighs."""

        def on_batch() -> None:
            if interrupts.received is not None:  # nothing was learned since the checkpoint
                raise self.interrupted("before the first epoch", interrupts.received)

        with self.ranks.agreed(Interrupted):
            found = run_scouts(self.plan, self.data, self.split, self.device, on_batch, self.ranks)
        self.begin_from(found)
        self.save()
        told = " ".join(f"{loss:.3f}" for loss in found.losses)
        self.report.say(f"scouts: validation loss {told}; information term {found.mutual_information:g} from here")

    def begin_from(self, found: Scouted) -> None:
        """Take gate, C and the weight of the information term from the best scout."""
        learner = self.learner
        assert learner.gate is not None
        assert learner.assignment_logits is not None
        learner.gate.load_state_dict(found.gate.state_dict())
        learner.assignment_logits = learner.assignment_logits + found.assignment_logits.to(self.device)
        self.information = found.mutual_information

    def levels(self) -> Levels:
        """Return how the epoch under way learns, with the information term that scouts chose, if any did."""
        levels = self.plan.levels(self.epoch)
        if self.information is None:
            return levels
        return dataclasses.replace(levels, mutual_information=self.information)

    def _run_epoch(self, interrupts: Interrupts, metrics: Metrics) -> None:
        started = time.monotonic()
        levels = self.levels()
        self.plan.prepare(self.learner.experts, self.epoch)
        for train, validation in self.batches(self.epoch, self.step_in_epoch):
            self.take_step(train, validation, levels)
            self.report.step({name: value / self.step_in_epoch for name, value in self.sums.items() if "loss" in name})
            received = self.ranks.signal(interrupts.received)
            if received is not None and self.step_in_epoch < self.steps:
                self._stop(received)
        self.gather()
        record = self.record(levels, time.monotonic() - started)
        self._end_epoch()
        # The record first: a kill between the two writes repeats the epoch and writes the same record again.
        metrics.write(record)
        self.write()
        self.last_record = record
        self.report.epoch(epoch_line(record, self.plan.epochs, len(self.plan.stages)), record)
        if self.plan.place(self.epoch)[0] > record["stage"]:
            self.report.say(told_size(self.plan, record["stage"] + 1, self.spaces, self.data.info))
        if self.epoch < self.plan.epochs:
            received = self.ranks.signal(interrupts.received)
            if received is not None:
                self._stop(received)

    def take_step(self, train: Batch, validation: Batch, levels: Levels) -> None:
        """Take one step of the epoch under way.

        Raises:
            NonFinite: a level gave NaN or infinity; the checkpoint of the state before is written.
        """
        reference = self.settings.grouping == "none" and self.settings.order != "shared"
        take = self.learner.bilevel_step if reference else self.learner.step
        # A seed for every step: what is dropped is the same in all passes, and after a resume.
        self.learner.experts.seed = derive_seed(self.settings.seed, "draws", self.epoch, self.step_in_epoch)
        try:
            losses = take(train, validation, levels)
        except NonFinite as error:
            self.save()
            raise NonFinite(
                f"epoch {self.epoch + 1}, step {self.step_in_epoch + 1}: {error}; the state before this step is in "
                f"{self.folder / CHECKPOINT}"
            ) from None
        add_losses(self.sums, losses)
        self.step_in_epoch += 1

    def _end_epoch(self) -> None:
        """Go on to the next epoch; where it begins a stage, drop operations and build the supernets anew."""
        before = self.plan.place(self.epoch)[0]
        self.epoch, self.step_in_epoch, self.sums = self.epoch + 1, 0, {}
        stage = self.plan.place(self.epoch)[0]
        if stage > before:
            pairs = zip(self.spaces, self.alphas(), strict=True)
            self.spaces = [prune(space, own, self.plan.stages[stage].keep) for space, own in pairs]
            self.rebuild()

    def _stop(self, signal_number: int) -> None:
        self.stop(f"in epoch {self.epoch + 1} after {self.step_in_epoch} of {self.steps} steps", signal_number)

    def alphas(self) -> list[dict[str, Any]]:
        """Return the architecture parameters of each expert as arrays."""
        return [
            {name: value.detach().cpu().numpy() for name, value in own.items()} for own in self.learner.architecture
        ]

    def architectures(self) -> tuple[CellGenotype, ...]:
        """Return the genotype of each expert as the alphas stand."""
        pairs = zip(self.spaces, self.alphas(), strict=True)
        return tuple(self.base.derive(space, own, self.plan.max_skips) for space, own in pairs)

    def validated(self) -> tuple[float, float | None]:
        """Return the top-1 routed accuracy on the validation half, and how often all of several experts agree on it.

        With running statistics, unaugmented. All experts are asked for the first samples only.
        """
        learner, ids = self.learner, self.split.validation
        asked = 0 if len(self.spaces) == 1 else AGREEMENT_SAMPLES
        found = [
            answers(
                learner.gate,
                learner.experts.modules,
                self.data,
                some,
                self.device,
                all_experts=every,
                multiple=self.plan.size_multiple,
                ranks=self.ranks,
            )
            for some, every in ((ids[:asked], True), (ids[asked:], False))
            if len(some)
        ]
        routed, labels = (torch.cat(parts) for parts in zip(*((own.routed, own.labels) for own in found), strict=True))
        return accuracy(routed, labels), None if found[0].experts is None else agreement(found[0].experts)

    def record(self, levels: Levels, seconds: float) -> dict[str, Any]:
        """Return what metrics.jsonl keeps of the epoch under way."""
        learner, ids, multiple = self.learner, self.split.train, self.plan.size_multiple
        logits = learner.assignment_logits
        probs = gate_groups(learner.gate, self.data, ids, self.device, multiple)
        shares = group_record(probs, None if logits is None else logits[ids.to(logits.device)])
        accurate, agree = self.validated()
        last = self.epoch + 1 == self.plan.epochs  # untrained experts agree as well
        return {
            "epoch": self.epoch,
            "stage": self.plan.place(self.epoch)[0],
            **epoch_means(self.sums, self.steps),
            "validation_accuracy": accurate,
            **shares,
            "rate": levels.experts.rate,
            "architecture_learned": levels.architecture,
            **cell_record(self.architectures()),
            "expert_agreement": agree,
            "notes": collapse_notes(shares["group_share"], agree if last else None),
            "seconds": seconds,
        }

    def write_result(self) -> tuple[Path, tuple[CellGenotype, ...]]:
        """Write the genotype file (and the gate's weights beside it) of the alphas as they stand."""
        cells = self.architectures()
        sizes = [count_parameters(module) for module in self.learner.experts.modules]
        provenance = {
            "settings": self.settings.model_dump(mode="json"),
            "space": self.space.model_dump(mode="json"),
            "data_fingerprint": self.split.fingerprint,
            "supernet_parameters": sizes,
        }
        if self.ranks.first:
            write_genotype(self.folder, self.settings, self.space.name, cells, self.learner.gate, provenance)
        return self.folder / GENOTYPE, cells
