"""Conversion to and from NNI's architecture dictionaries; NNI itself is not needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lbgnas.errors import LbgnasError
from lbgnas.genotype import CellGenotype, published
from lbgnas.nni import from_nni, to_nni


def test_darts_v2_is_what_nni_calls_darts_v2():
    sample = to_nni(published("DARTS_V2").experts[0])
    assert len(sample) == 32
    assert sample["normal/op_4_1"] == "skip_connect"
    assert sample["normal/input_4_1"] == [0]
    assert sample["normal/op_5_1"] == "dil_conv_3x3"
    assert sample["normal/input_5_1"] == [2]
    assert sample["reduce/op_3_0"] == "skip_connect"
    assert sample["reduce/input_3_0"] == [2]


@pytest.mark.parametrize("name", ["DARTS_V1", "DARTS_V2", "PDARTS", "PC_DARTS_cifar", "PC_DARTS_image"])
def test_there_and_back(name):
    cell = published(name).experts[0]
    assert from_nni(to_nni(cell)) == cell


def test_a_chosen_width_and_depth_play_no_part():
    cell = published("PDARTS").experts[0]
    assert from_nni({**to_nni(cell), "width": 16, "depth": 8}) == cell


def test_what_does_not_fit_is_refused_in_one_sentence():
    cell = published("DARTS_V2").experts[0]
    sample = to_nni(cell)
    for change, words in (
        ({"cell/0_1": "conv"}, "the key 'cell/0_1' is not of a DARTS space"),
        ({"normal/op_2_0": "sep_conv_3x4"}, "normal/op_2_0: unknown operation 'sep_conv_3x4'.*did you mean"),
        ({"normal/input_2_0": [2]}, "is not one input from 0 to 1"),
        ({"normal/input_2_0": [0, 1]}, "is not one input from 0 to 1"),
    ):
        with pytest.raises(LbgnasError, match=words):
            from_nni({**sample, **change})
    less = {key: value for key, value in sample.items() if key != "reduce/op_5_1"}
    with pytest.raises(LbgnasError, match="the key 'reduce/op_5_1' is missing"):
        from_nni(less)
    with pytest.raises(LbgnasError, match="the normal cell has the nodes"):
        from_nni({key: value for key, value in sample.items() if "_3_" not in key})
    fewer = CellGenotype(cell.normal, (2, 3, 4), cell.reduce, cell.reduce_concat)
    with pytest.raises(LbgnasError, match="leaves out nodes"):
        to_nni(fewer)


BROKEN = """
import sys, types
sys.path.insert(0, sys.argv[1])
try:
    from lbgnas.nni import LBG
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("content", "words"),
    [("raise ImportError('wants tianshou')", "cannot be imported (wants tianshou)"), (None, "is not installed")],
)
def test_a_missing_or_broken_host_is_one_sentence(tmp_path, content, words):
    """A stand-in for torchmetrics, the first thing that is imported: one that breaks, or one that lacks a part."""
    (tmp_path / "torchmetrics.py").write_text(content or "import no_such_package_anywhere\n")
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.startswith("LbgnasError lbgnas.nni: "), done.stdout + done.stderr
    assert words in done.stdout
    assert "pip install 'lbgnas[nni]'" in done.stdout
    assert len(done.stdout.strip().splitlines()) == 1


def test_importing_lbgnas_imports_no_host():
    words = "import sys, lbgnas, lbgnas.nni; lbgnas.nni.to_nni; "
    words += "print([name for name in ('nni', 'pytorch_lightning', 'torchmetrics') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
