"""What a step refuses: batches that do not fit together, numbers that are not finite, slopes that vanished."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lbgnas.errors import LbgnasError
from lbgnas.grouping.assignments import assigned
from lbgnas.grouping.levels import Levels, Samples, Unrolled
from lbgnas.grouping.sgd import Tensors, norm


class NonFinite(LbgnasError):
    """A level gave NaN or infinity; nothing of that iteration was committed."""


class VanishedHypergradient(LbgnasError):
    """A hypergradient is all zero although nothing is saturated; nothing of that iteration was committed."""


def check_samples(samples: Samples, where: str) -> None:
    """Refuse an empty batch and one whose images, labels and ids are not equally many.

    Raises:
        LbgnasError: names the batch and the sizes.
    """
    sizes = [tuple(part.shape[:1]) for part in samples]
    if len(sizes) != 3 or len(set(sizes)) != 1 or samples[1].dim() != 1 or samples[2].dim() != 1:
        shapes = ", ".join(str(tuple(part.shape)) for part in samples)
        raise LbgnasError(f"{where} batch: images, labels and ids must be equally many, given are shapes {shapes}")
    if not len(samples[1]):
        raise LbgnasError(f"{where} batch: is empty, at least 1 sample is needed")
    for name, part in (("labels", samples[1]), ("ids", samples[2])):
        if part.is_floating_point() or part.is_complex() or part.dtype == torch.bool:
            raise LbgnasError(f"{where} batch: {name} are {part.dtype}, integers are needed")


def check_ids(ids: Tensor, rows: int) -> None:
    """Refuse ids that are no rows of Z, or that come twice.

    Looks at ids on the CPU only: elsewhere the look would wait for the device at every step.

    Raises:
        LbgnasError: names the id and what is allowed.
    """
    if ids.device.type != "cpu":
        return
    low, high = (int(bound) for bound in ids.aminmax())
    if low < 0 or high >= rows:
        wrong = low if low < 0 else high
        raise LbgnasError(f"training batch: id {wrong} is out of range, the assignment logits have ids 0..{rows - 1}")
    ordered = ids.sort().values
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise LbgnasError(f"training batch: id {int(twice[0])} comes twice, every sample may be in a batch once")


Facts = list[tuple[Tensor, LbgnasError]]
"""What must be true, each a bool still on the device, and the error if it is not."""


def require(facts: Facts) -> None:
    """Raise the error of the first that is not true; one look, which waits for the device."""
    if facts:
        for (_, error), true in zip(facts, torch.stack([fact for fact, _ in facts]).tolist(), strict=True):
            if not true:
                raise error


def finite(values: Mapping[str, Tensor | None]) -> Facts:
    """Return that each number is neither NaN nor infinite, by its name; None is left out."""
    return [
        (value.detach().isfinite(), NonFinite(f"{name} is not finite; lower the learning rate or look at the data"))
        for name, value in values.items()
        if value is not None
    ]


def check_step(result: Unrolled, levels: Levels, assignment_logits: Tensor | None = None) -> None:
    """Refuse one iteration's result if a level is not finite or a hypergradient vanished.

    A hypergradient of C that is zero throughout passes where that is true: with one expert, with a gate that does not
    move (rate 0), with a gate or rows of C whose every largest entry is exactly 1.

    Raises:
        NonFinite, VanishedHypergradient: names the level or the parameter.
    """
    losses, hyper_c = result.losses, result.assignment_gradient
    facts = finite(
        {
            "gate loss (level 1)": losses.gate,
            "gate step (level 1)": norm(result.gate) if result.gate else None,
            "experts' loss (level 2)": losses.experts,
            **{f"step of expert {index} (level 2)": norm(weights) for index, weights in result.experts.items()},
            "validation loss (level 3)": losses.validation,
            "hypergradient of C": None if hyper_c is None else hyper_c.norm(),
            **{f"hypergradient of A_{index}": norm(own) for index, own in result.architecture_gradients.items() if own},
        }
    )
    facts += sloping(result.architecture_gradients)
    if hyper_c is not None and hyper_c.shape[1] > 1 and levels.gate.rate != 0:
        sure = [losses.confidence, None if assignment_logits is None else assigned(assignment_logits)[0]]
        excuses = [(value == 1).all() for value in sure if value is not None]
        error = VanishedHypergradient("the hypergradient of C is zero throughout: the gate does not depend on it")
        facts.append((torch.stack([hyper_c.any(), *excuses]).any(), error))
    require(facts)


def sloping(gradients: Mapping[int, Tensors]) -> Facts:
    """Return that no hypergradient of A is zero throughout.

    A parameter whose last dimension is 1 weighs one candidate alone: its zero is true, and left out.
    """
    # Not their norms: squares of small gradients underflow.
    return [
        (value.any(), VanishedHypergradient(f"the hypergradient of experts[{index}].{name} is zero throughout"))
        for index, own in gradients.items()
        for name, value in own.items()
        if value.shape[-1:] != (1,)
    ]
