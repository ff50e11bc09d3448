from __future__ import annotations

import os
import subprocess
import sys

import torch

from lbgnas.data.seeds import derive_seed, generator


def test_seed_is_the_same_in_every_process() -> None:
    code = (
        "import sys; from lbgnas.data.seeds import derive_seed; print(derive_seed(3, 'a', 4), 'torch' in sys.modules)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert outputs == {f"{derive_seed(3, 'a', 4)} False"}


def test_seed_values_never_change() -> None:
    # First 8 bytes of SHA-256 of the text `[0, "split"]`, halved: saved runs depend on it.
    assert derive_seed(0, "split") == 0x0440F627B88B2F41


def test_words_are_not_run_together() -> None:
    names = [
        (0, "ab", "c"),
        (0, "a", "bc"),
        (0, "abc"),
        (0, 1),
        (0, "1"),
        (0, 1, 1),
        (0, 11),
        (1,),
        (10,),
        (1, 0),
    ]
    seeds = [derive_seed(*name) for name in names]
    assert len(set(seeds)) == len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generator_starts_at_the_derived_seed() -> None:
    expected = torch.rand(5, generator=torch.Generator().manual_seed(derive_seed(7, "x", 2)))
    assert torch.equal(torch.rand(5, generator=generator(7, "x", 2)), expected)
    assert not torch.equal(torch.rand(5, generator=generator(7, "x", 3)), expected)
