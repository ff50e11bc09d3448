"""Plain words for groups that are not groups: starved experts, one expert for everything, experts that all agree."""

from __future__ import annotations

from collections.abc import Sequence

REMEDIES = "try another seed, a larger gate.mutual_information, third_level mixture or fewer experts"
ONE_EXPERT = 0.95
SAME_ANSWERS = 0.99


def collapse_notes(shares: Sequence[float], agreement: float | None = None) -> list[str]:
    """Return what a user should know of the groups, one sentence each; nothing without grouping or trouble.

    Args:
        shares: of the samples, by group; below 1 / (10 K) a group is starved.
        agreement: share of samples on which all experts give the same answer, if it was measured.

    Example:
        >>> collapse_notes([0.5, 0.5], 0.8)
        []
    """
    count = len(shares)
    if count < 2:
        return []
    least = 1 / (10 * count)
    notes = [
        f"expert {index} gets {share:.1%} of the samples, under {least:.1%} (1 / 10 K): its group has all but vanished"
        for index, share in enumerate(shares)
        if share < least
    ]
    if max(shares) > ONE_EXPERT:
        notes.append(f"the grouping has collapsed: expert {shares.index(max(shares))} does all the work")
    if agreement is not None and agreement > SAME_ANSWERS and not notes:
        notes.append(f"the experts give the same answer on {agreement:.1%} of the samples: they learned the same")
    return [*notes[:-1], f"{notes[-1]}; {REMEDIES}"] if notes else []
