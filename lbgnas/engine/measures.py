"""What an evaluation measured on the test split: experts, their mixture, fairness; as JSON and as tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lbgnas.data.image_data import ImageData
from lbgnas.data.statistics import left_out
from lbgnas.data.transforms import padded_size
from lbgnas.engine.collapse import collapse_notes
from lbgnas.engine.inference import Answers
from lbgnas.fairness.report import fairness_report
from lbgnas.fairness.result import FairnessReport
from lbgnas.networks.counting import COUNTED, count_macs, count_parameters

SHOWN = ("dp", "deo_sum", "deo_max", "deo_opp", "worst_group_accuracy")
"""The fairness metrics of the closing table; results.json has all."""

RESAMPLES = 1000
"""Bootstrap samples of the intervals."""


def predictions(probs: Tensor, logits: Tensor, trained: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """Return (group, routed prediction, mixture prediction), experts without training left out.

    Args:
        probs: the gate's f(x; T), (N, K).
        logits: of every expert, (N, K, classes).
        trained: for each expert, whether it was trained.
    """
    usable = probs * torch.tensor(trained, dtype=probs.dtype)
    group = usable.argmax(1)
    routed = logits[torch.arange(len(group)), group].argmax(1)
    mixture = (usable[:, :, None] * logits.softmax(-1)).sum(1).argmax(1)
    return group, routed, mixture


@dataclass(frozen=True)
class ExpertMeasures:
    """One expert on the samples routed to it; accuracy is None where none is."""

    accuracy: float | None
    train_share: float
    test_share: float
    parameters: int
    macs: int


@dataclass(frozen=True)
class Measures:
    """What the test split showed.

    Attributes:
        routed: accuracy of each sample's own expert (top 1 of the gate).
        mixture: accuracy of sum_k f_k softmax(logits_k).
        top5: of the routed answers, how often the label is among the five likeliest; None for five classes or fewer.
        experts: each expert on its own samples.
        gate_parameters, gate_macs: of the gate, 0 without.
        fairness: where the data has an attribute: of the routed predictions ("routed"), the mixture's
            ("mixture"), and each expert's on the samples routed to it ("expert 0", ...).
        data, note, samples: what was measured on.
        skipped: image files of the test split that could not be read.
    """

    routed: float
    mixture: float
    top5: float | None
    experts: tuple[ExpertMeasures, ...]
    gate_parameters: int
    gate_macs: int
    fairness: dict[str, FairnessReport]
    data: str
    note: str
    attribute: str | None
    samples: int
    skipped: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Of all experts and the gate."""
        return sum(expert.parameters for expert in self.experts) + self.gate_parameters

    @property
    def macs(self) -> tuple[float, int]:
        """Per sample: (gate and own expert, mean over the test samples; gate and every expert)."""
        routed = self.gate_macs + sum(expert.macs * expert.test_share for expert in self.experts)
        return routed, self.gate_macs + sum(expert.macs for expert in self.experts)

    @property
    def notes(self) -> list[str]:
        """What a user should know of the groups."""
        return collapse_notes([expert.train_share for expert in self.experts])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-safe data."""
        return {
            "routed_accuracy": self.routed,
            "mixture_accuracy": self.mixture,
            "routed_top5_accuracy": self.top5,
            "experts": [vars(expert) for expert in self.experts],
            "gate": {"parameters": self.gate_parameters, "macs": self.gate_macs},
            "parameters": self.parameters,
            "macs_per_sample": {"routed": self.macs[0], "mixture": self.macs[1], "counted": COUNTED},
            "fairness": {name: report.to_dict() for name, report in self.fairness.items()},
            "data": self.data,
            "note": self.note,
            "notes": self.notes,
            "attribute": self.attribute,
            "samples": self.samples,
            "skipped": list(self.skipped),
        }

    def to_markdown(self) -> str:
        """Return the closing table."""
        header = ["", "accuracy", "train share", "test share", "parameters", "MACs", *(SHOWN if self.fairness else ())]
        rows = [header, ["---"] * len(header)]
        blank = ["" for _ in SHOWN] if self.fairness else []
        for index, expert in enumerate(self.experts):
            value = "no sample" if expert.accuracy is None else f"{expert.accuracy:.4f}"
            shares = [f"{expert.train_share:.2f}", f"{expert.test_share:.2f}"]
            sizes = [f"{expert.parameters:,}", f"{expert.macs:,}"]
            rows.append([f"expert {index}, its own samples", value, *shares, *sizes, *blank])
        whole = [("top-1 routed", self.routed, "routed", self.macs[0])]
        if len(self.experts) > 1:
            whole.append(("soft mixture", self.mixture, "mixture", float(self.macs[1])))
        for title, accuracy, key, macs in whole:
            gaps = [_number(self.fairness[key].metrics[name]) for name in SHOWN] if self.fairness else []
            rows.append([title, f"{accuracy:.4f}", "1", "1", f"{self.parameters:,}", f"{macs:,.0f}", *gaps])
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
        text = [f"Test split of {self.data}, {self.samples} samples, opened once.", "", *lines, ""]
        text.append(f"Sizes of the whole include the gate; MACs are per sample: {COUNTED}.")
        if self.note:
            text.append(self.note)
        if self.skipped:
            text.append(f"Of the test split {left_out(self.skipped)}")
        text += [f"note: {note}" for note in self.notes]
        if self.fairness:
            text += ["", f"Cells of label and {self.attribute} (top-1 routed):", "", _cells(self.fairness["routed"])]
        return "\n".join(text) + "\n"


def _number(value: float) -> str:
    return f"{value:.4f}"


def _cells(report: FairnessReport) -> str:
    lines = ["| label | attribute | count | accuracy |", "| --- | --- | --- | --- |"]
    lines += [f"| {c.label_name} | {c.attribute_name} | {c.count} | {_number(c.accuracy)} |" for c in report.cells]
    return "\n".join([*lines, *report.undefined])


def measure(
    found: Answers,
    test: ImageData,
    experts: Sequence[nn.Module],
    gate: nn.Module | None,
    train_counts: Sequence[int],
    trained: list[bool],
    multiple: int = 4,
) -> Measures:
    """Return what the answers on the test split amount to.

    Args:
        found: answers of every expert.
        test: the test split.
        experts, gate: the networks, to be counted.
        train_counts: training samples of each expert.
        trained: whether each expert was trained.
        multiple: images are padded to a multiple of it.
    """
    assert found.experts is not None
    group, routed, mixture = predictions(found.gate, found.experts, trained)
    right = routed == found.labels
    side = padded_size(test.info.size, multiple)
    own = []
    for index, expert in enumerate(experts):
        rows = group == index
        own.append(
            ExpertMeasures(
                accuracy=float(right[rows].float().mean()) if bool(rows.any()) else None,
                train_share=train_counts[index] / max(sum(train_counts), 1),
                test_share=float(rows.float().mean()),
                parameters=count_parameters(expert),
                macs=count_macs(expert, test.info.channels, side),
            )
        )
    parts = {"routed": (routed, torch.arange(len(test))), "mixture": (mixture, torch.arange(len(test)))}
    if len(experts) > 1:
        parts |= {f"expert {index}": (routed, (group == index).nonzero()[:, 0]) for index in range(len(experts))}
    fairness = {}
    if test.attribute is not None:
        fairness = {
            name: _fairness(test, found.labels[rows], predicted[rows], test.attribute[rows])
            for name, (predicted, rows) in parts.items()
            if bool((test.attribute[rows] >= 0).any())
        }
    return Measures(
        routed=float(right.float().mean()),
        mixture=float((mixture == found.labels).float().mean()),
        top5=_top5(found.experts[torch.arange(len(group)), group], found.labels),
        experts=tuple(own),
        gate_parameters=0 if gate is None else count_parameters(gate),
        gate_macs=0 if gate is None else count_macs(gate, test.info.channels, side),
        fairness=fairness,
        data=test.info.name,
        note=test.info.note,
        attribute=test.info.attribute_name,
        samples=len(test),
        skipped=test.info.skipped,
    )


def _top5(logits: Tensor, labels: Tensor) -> float | None:
    if logits.shape[1] <= 5:
        return None
    return float((logits.topk(5, 1).indices == labels[:, None]).any(1).float().mean())


def _fairness(test: ImageData, labels: Tensor, predicted: Tensor, attribute: Tensor) -> FairnessReport:
    return fairness_report(
        labels.numpy(),
        predicted.numpy(),
        sensitive_features=attribute.numpy(),
        label_names=test.info.class_names,
        attribute_names=test.info.attribute_values or None,
        n_boot=RESAMPLES,
    )


def predictions_csv(found: Answers, test: ImageData, trained: list[bool]) -> str:
    """Return the answers as CSV, a row for each test sample, in the form `tools/audit.py` reads.

    Columns: id, label, prediction (top-1 routed), mixture, expert, confidence (the gate's probability of that
    expert), for two classes score (probability of class 1), and the attribute under its name.
    """
    assert found.experts is not None
    group, routed, mixture = predictions(found.gate, found.experts, trained)
    rows = torch.arange(len(group))
    columns: dict[str, list[Any]] = {
        "id": rows.tolist(),
        "label": found.labels.tolist(),
        "prediction": routed.tolist(),
        "mixture": mixture.tolist(),
        "expert": group.tolist(),
        "confidence": [f"{value:.6f}" for value in found.gate[rows, group].tolist()],
    }
    if test.info.num_classes == 2:
        score = found.experts[rows, group].softmax(1)[:, 1]
        columns["score"] = [f"{value:.6f}" for value in score.tolist()]
    if test.attribute is not None:
        names, codes = test.info.attribute_values, test.attribute.tolist()
        values = ["" if code < 0 else names[code] if names else code for code in codes]
        columns[test.info.attribute_name or "attribute"] = values
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([list(columns), *zip(*columns.values(), strict=True)])
    return out.getvalue()
