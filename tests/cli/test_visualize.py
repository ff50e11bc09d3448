import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "visualize.py"


def run(*arguments, cwd, python=()):
    return subprocess.run(
        [sys.executable, *python, str(TOOL), *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_published_name(tmp_path):
    done = run("--genotype", "DARTS_V2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "expert 0 normal: s3:0 s3:1 | s3:0 s3:1 | s3:1 sk:0 | sk:0 d3:2"
    assert lines[1] == "expert 0 reduce: mp:0 mp:1 | sk:2 mp:1 | mp:0 sk:2 | sk:2 mp:1"
    folder = tmp_path / "runs" / "drawings" / "DARTS_V2"
    assert {tmp_path / line for line in lines[2:]} == set(folder.iterdir())
    assert folder / "expert0-normal.gv" in folder.iterdir()


def test_file_and_out(tmp_path):
    own = tmp_path / "own.json"
    own.write_bytes((TOOL.parents[1] / "genotypes" / "NASNet.json").read_bytes())
    assert run("--genotype", "own.json", cwd=tmp_path).returncode == 0
    assert (tmp_path / "drawings" / "expert0-reduce.gv").is_file()
    assert run("--genotype", "own.json", "--out", "there", cwd=tmp_path).returncode == 0
    assert set(os.listdir(tmp_path / "there")) == set(os.listdir(tmp_path / "drawings"))


@pytest.mark.parametrize(
    ("genotype", "sentence"),
    [
        ("DARTS_V9", "unknown genotype 'DARTS_V9'; allowed are "),
        ("missing.json", "missing.json: no such file"),
        ("broken.json", "broken.json: is cut off at line 1, or not JSON"),
        (".", ".: is a folder, not a genotype file"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, genotype, sentence):
    (tmp_path / "broken.json").write_text('{"format": ')
    done = run("--genotype", genotype, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"visualize: {sentence}")
    assert done.stderr.count("\n") == 1


def test_help_is_light(tmp_path):
    done = run("--help", cwd=tmp_path, python=("-X", "importtime"))
    assert done.returncode == 0
    assert "--genotype" in done.stdout
    assert "--out" in done.stdout
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "lbgnas.genotype" in loaded
    assert not {"torch", "numpy", "graphviz", "lbgnas.report.drawing"} & loaded


def test_unknown_flag(tmp_path):
    done = run("--genotyp", "DARTS_V2", cwd=tmp_path)
    assert done.returncode == 2
    assert "--genotype" in done.stderr
