from __future__ import annotations

import re

import pytest

from lbgnas.engine.collapse import collapse_notes


@pytest.mark.parametrize(
    ("shares", "agreement", "words"),
    [
        ([1.0], 1.0, []),
        ([0.5, 0.5], 0.9, []),
        ([0.5, 0.5], 0.995, ["the same answer on 99.5%"]),
        ([0.05, 0.95], None, []),
        ([0.049, 0.951], 0.2, ["expert 0 gets 4.9% .* under 5.0%", "expert 1 does all the work"]),
        ([0.0, 0.0, 1.0], None, ["expert 0 gets 0.0%", "expert 1 gets 0.0%", "expert 2 does all the work"]),
        ([0.3, 0.3, 0.376, 0.024], None, ["expert 3 gets 2.4% .* under 2.5%"]),
    ],
)
def test_collapse_is_said_plainly_and_only_then(shares, agreement, words):
    notes = collapse_notes(shares, agreement)
    assert len(notes) == len(words)
    for note, pattern in zip(notes, words, strict=True):
        assert re.search(pattern, note), note
    if notes:
        assert "try another seed" in notes[-1]
