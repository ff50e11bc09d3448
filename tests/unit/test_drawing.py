import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lbgnas.errors import LbgnasError
from lbgnas.genotype import OPERATIONS, GateRecord, published
from lbgnas.report.drawing import cell_dot, draw_genotype, experts_dot, render
from lbgnas.report.rendering import NO_RENDERER, find_renderer

CELL = (("sep_conv_3x3", 0), ("skip_connect", 1), ("noise", 2), ("noise", 2))
GOLDEN = """\
	"c_{k-2}" [label="c_{k-2}" fillcolor="#FBE7B2"]
	"c_{k-1}" [label="c_{k-1}" fillcolor="#FBE7B2"]
	0 [label=0 margin=0.02 shape=circle style=filled width=0.45]
	1 [label=1 margin=0.02 shape=circle style=filled width=0.45]
	{
		graph [rank=same]
		"c_{k-2}" -> "c_{k-1}" [style=invis]
	}
	c_k [label=c_k fillcolor="#FBE7B2"]
	"c_{k-2}" -> 0 [label=" sep 3×3 " color="#0072B2" fontcolor="#005A8D" style=solid]
	"c_{k-1}" -> 0 [label=" skip " color="#8A8A8A" fontcolor="#5F5F5F" style=dashed]
	0 -> 1 [label=" noise " color="#D55E00" fontcolor="#A34700" style=dotted]
	0 -> 1 [label=" noise " color="#D55E00" fontcolor="#A34700" style=dotted]
	1 -> c_k [color="#404040" penwidth=1]
}
"""
needs_pure = pytest.mark.skipif(
    shutil.which("graphviz-pure", path=str(Path(sys.executable).parent)) is None,
    reason="graphviz-pure is not installed beside Python",
)


def fake(folder, name, script):
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine with neither `dot` nor `graphviz-pure`; returns its (empty) folder on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))
    return folder


def test_golden_text():
    head, body = cell_dot(CELL, (3,), "a < b & c").split("penwidth=2.2]\n")
    assert body == GOLDEN
    assert "<B>a &lt; b &amp; c</B>" in head
    assert "rankdir=LR" in head


def test_legend_names_the_kinds_in_use_only():
    def kinds(pairs):
        return re.findall(r'<FONT COLOR="[^"]*">([^<]*)  </FONT>', cell_dot(pairs, (2,), "t"))

    assert kinds(CELL) == ["separable convolution", "skip connection", "noise"]
    assert kinds((("max_pool_3x3", 0), ("avg_pool_3x3", 1))) == ["pooling"]
    everything = tuple((operation, 0) for operation in OPERATIONS)
    assert len(kinds(everything)) == len(set(kinds(everything))) == 6


def test_every_operation_has_its_own_label():
    text = cell_dot([(operation, 0) for operation in OPERATIONS], (2,), "t")
    labels = re.findall(r'-> \d+ \[label="? ?([^"]+?) ?" color', text)
    assert len(set(labels)) == len(labels) == len(OPERATIONS)


def test_operation_that_cannot_be_drawn():
    with pytest.raises(LbgnasError, match="unknown operation 'none'"):
        cell_dot((("none", 0), ("noise", 1)), (2,), "t")


def test_all_experts_in_one_text():
    cells = (published("DARTS_V2").experts[0], published("NASNet").experts[0])
    text = experts_dot(cells, "both")
    frames = re.findall(r'label="(expert [^"]*)"', text)
    assert sorted(frames) == [f"expert {n}, {kind} cell" for n in (0, 1) for kind in ("normal", "reduction")]
    assert len(re.findall(r"fontcolor=", text)) == 2 * 8 + 2 * 10


@needs_pure
def test_without_dot_graphviz_pure_draws(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    drawn = render(cell_dot(CELL, (3,), "cell"), tmp_path / "new" / "v1.0")
    assert drawn.renderer is not None
    assert Path(drawn.renderer).name == "graphviz-pure"
    assert [path.name for path in drawn.paths] == ["v1.0.gv", "v1.0.svg", "v1.0.png"]
    assert drawn.paths[0].read_text(encoding="utf-8") == cell_dot(CELL, (3,), "cell")
    svg = drawn.paths[1].read_text(encoding="utf-8")
    for words in ("c_{k&#45;2}", "sep 3×3", "skip connection"):
        assert words in svg
    assert drawn.paths[2].read_bytes().startswith(b"\x89PNG\r\n")


@needs_pure
def test_text_that_is_not_graphviz(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LbgnasError, match=r"x\.svg: .*graphviz-pure failed: .*syntax error in line 1"):
        render("digraph {", tmp_path / "x")


def test_dot_comes_first(bare):
    fake(bare, "graphviz-pure", "exit 1")
    assert find_renderer() == str(bare / "graphviz-pure")
    fake(bare, "dot", "exit 1")
    assert find_renderer() == str(bare / "dot")


def test_without_any_renderer_the_text_is_written(bare, tmp_path):
    drawn = draw_genotype(published("DARTS_V2"), tmp_path / "out")
    assert (drawn.renderer, drawn.note) == (None, NO_RENDERER)
    assert sorted(os.listdir(tmp_path / "out")) == ["expert0-normal.gv", "expert0-reduce.gv", "experts.gv"]
    assert set(drawn.paths) == set((tmp_path / "out").iterdir())


def test_titles_name_the_expert_only_if_there_are_several(bare, tmp_path):
    one = published("DARTS_V2")
    gate = GateRecord({}, "gate.safetensors", "0" * 64)
    draw_genotype(one, tmp_path / "one")
    draw_genotype(replace(one, experts=one.experts * 2, gate=gate), tmp_path / "two")
    assert "<B>DARTS_V2, normal cell</B>" in (tmp_path / "one" / "expert0-normal.gv").read_text("utf-8")
    assert "<B>DARTS_V2, expert 1, reduction cell</B>" in (tmp_path / "two" / "expert1-reduce.gv").read_text("utf-8")


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("echo first >&2; echo 'Error: last' >&2; exit 3", "dot failed: Error: last$"),
        ("exit 0", "dot failed: it said nothing$"),
    ],
)
def test_failing_renderer(bare, tmp_path, script, sentence):
    fake(bare, "dot", script)
    with pytest.raises(LbgnasError, match=sentence):
        render("digraph {}", tmp_path / "x")
    assert (tmp_path / "x.gv").is_file()


def test_renderer_that_cannot_be_run(bare, tmp_path):
    (bare / "dot").write_bytes(b"\0not a program")
    (bare / "dot").chmod(0o755)
    with pytest.raises(LbgnasError, match="dot cannot be run: "):
        render("digraph {}", tmp_path / "x")


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LbgnasError, match=r"x\.gv: cannot be written: "):
        render("digraph {}", tmp_path / "file" / "x")
