"""Cells as pictures: which operation leads from which state to which node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from graphviz import Digraph

from lbgnas.errors import unknown
from lbgnas.genotype import KINDS, CellGenotype, Genotype
from lbgnas.report.rendering import Rendered as Rendered
from lbgnas.report.rendering import render as render


@dataclass(frozen=True)
class Style:
    """How one kind of operation looks: its name in the legend, line colour, label colour and line style."""

    kind: str
    line: str
    text: str
    dash: str = "solid"


# Colours that stay apart for colour-blind readers (Okabe and Ito); labels are darker, to be read on white.
_SEPARABLE = Style("separable convolution", "#0072B2", "#005A8D")
_FACTORISED = Style("factorised convolution", "#56B4E9", "#1F6E9E")
_DILATED = Style("dilated convolution", "#CC79A7", "#8E3A6B")
_POOL = Style("pooling", "#009E73", "#00694D")
_SKIP = Style("skip connection", "#8A8A8A", "#5F5F5F", "dashed")
_NOISE = Style("noise", "#D55E00", "#A34700", "dotted")
_LOOKS = {
    "sep_conv_3x3": ("sep 3×3", _SEPARABLE),
    "sep_conv_5x5": ("sep 5×5", _SEPARABLE),
    "sep_conv_7x7": ("sep 7×7", _SEPARABLE),
    "conv_7x1_1x7": ("7×1, 1×7", _FACTORISED),
    "dil_conv_3x3": ("dil 3×3", _DILATED),
    "dil_conv_5x5": ("dil 5×5", _DILATED),
    "max_pool_3x3": ("max 3×3", _POOL),
    "avg_pool_3x3": ("avg 3×3", _POOL),
    "skip_connect": ("skip", _SKIP),
    "noise": ("noise", _NOISE),
}
_STYLES = tuple(dict.fromkeys(style for _, style in _LOOKS.values()))
# A legend cannot hold lines, so a stroke is a row of small filled boxes of these widths.
_STROKES = {"solid": (26,), "dashed": (6, 6, 6), "dotted": (3, 3, 3, 3)}
_NAMES = {"normal": "normal cell", "reduce": "reduction cell"}
_FONT = "Helvetica"


def _look(operation: str) -> tuple[str, Style]:
    if operation not in _LOOKS:
        raise unknown("operation", operation, _LOOKS)
    return _LOOKS[operation]


def _swatch(style: Style) -> str:
    box = '<TD BGCOLOR="{}" WIDTH="{}" HEIGHT="4" FIXEDSIZE="TRUE"></TD>'
    boxes = "".join(box.format(style.line, width) for width in _STROKES[style.dash])
    # The fixed size keeps the boxes together where the title is wider than the legend.
    size = 'FIXEDSIZE="TRUE" WIDTH="30" HEIGHT="8"'
    return f'<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="2" CELLPADDING="0" {size}><TR>{boxes}</TR></TABLE>'


def _heading(title: str, operations: Iterable[str]) -> str:
    used = {_look(operation)[1] for operation in operations}
    legend = "".join(
        f'<TD>{_swatch(style)}</TD><TD ALIGN="LEFT"><FONT COLOR="{style.text}">{style.kind}  </FONT></TD>'
        for style in _STYLES
        if style in used
    )
    safe = title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return (
        '<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="2">'
        f'<TR><TD COLSPAN="{2 * len(used) + 2}"><FONT POINT-SIZE="18"><B>{safe}</B></FONT></TD></TR>'
        f"<TR><TD></TD>{legend}<TD></TD></TR></TABLE>>"
    )


def _canvas(title: str, operations: Iterable[str]) -> Digraph:
    return Digraph(
        graph_attr={
            "rankdir": "LR",
            "label": _heading(title, operations),
            "labelloc": "t",
            "fontname": _FONT,
            "fontsize": "12",
            "bgcolor": "white",
            "pad": "0.2",
            "nodesep": "0.35",
            "ranksep": "0.55",
        },
        node_attr={
            "shape": "box",
            "style": "rounded,filled",
            "fontname": _FONT,
            "fontsize": "16",
            "color": "#404040",
            "fillcolor": "#F2F2F2",
            "margin": "0.14,0.06",
            "height": "0.45",
            "width": "0.5",
        },
        edge_attr={"fontname": _FONT, "fontsize": "13", "arrowsize": "0.8", "penwidth": "2.2"},
    )


def _draw(graph: Digraph, pairs: Sequence[tuple[str, int]], concat: Sequence[int], prefix: str = "") -> None:
    states = [f"{prefix}c_{{k-2}}", f"{prefix}c_{{k-1}}"]
    for name, label in zip(states, ("c_{k-2}", "c_{k-1}"), strict=True):
        graph.node(name, label, fillcolor="#FBE7B2")
    for node in range(len(pairs) // 2):
        states.append(f"{prefix}{node}")
        graph.node(states[-1], str(node), shape="circle", style="filled", width="0.45", margin="0.02")
    # Keeps c_{k-2} above c_{k-1}; Graphviz stacks the nodes of a cluster the other way up.
    top, bottom = reversed(states[:2]) if prefix else states[:2]
    with graph.subgraph(graph_attr={"rank": "same"}) as inputs:
        inputs.edge(top, bottom, style="invis")
    graph.node(f"{prefix}c_k", "c_k", fillcolor="#FBE7B2")
    for i, (operation, source) in enumerate(pairs):
        label, style = _look(operation)
        colours = {"color": style.line, "fontcolor": style.text, "style": style.dash}
        graph.edge(states[source], states[i // 2 + 2], label=f" {label} ", **colours)
    for state in concat:
        graph.edge(states[state], f"{prefix}c_k", color="#404040", penwidth="1")


def cell_dot(pairs: Sequence[tuple[str, int]], concat: Sequence[int], title: str) -> str:
    """Return the Graphviz text of one cell, drawn from its two inputs on the left to its output on the right.

    Colours tell the kinds of operation apart, labels the operations; thin dark lines lead to the output.

    Example:
        >>> "sep 3×3" in cell_dot([("sep_conv_3x3", 0), ("skip_connect", 1)], [2], "tiny")
        True
    """
    graph = _canvas(title, [operation for operation, _ in pairs])
    _draw(graph, pairs, concat)
    return str(graph.source)


def experts_dot(experts: Sequence[CellGenotype], title: str) -> str:
    """Return the Graphviz text of all experts in one picture: a row for each, the normal cell on the left."""
    edges = [pair for expert in experts for kind in KINDS for pair in expert.pairs(kind)]
    graph = _canvas(title, [operation for operation, _ in edges])
    for number, expert in reversed(list(enumerate(experts))):
        for kind in KINDS:
            frame = {"label": f"expert {number}, {_NAMES[kind]}", "color": "#BBBBBB", "style": "rounded"}
            with graph.subgraph(name=f"cluster_{number}_{kind}", graph_attr={**frame, "margin": "12"}) as box:
                _draw(box, expert.pairs(kind), expert.concat(kind), f"{number}_{kind}_")
        graph.edge(f"{number}_normal_c_k", f"{number}_reduce_c_{{k-2}}", style="invis")
    return str(graph.source)


def draw_genotype(genotype: Genotype, out_dir: str | Path) -> Rendered:
    """Draw every cell of every expert, and all of them in one picture named `experts`.

    Raises:
        LbgnasError: as `render`.
    """
    texts = {}
    for number, expert in enumerate(genotype.experts):
        who = f"{genotype.name}, expert {number}" if len(genotype.experts) > 1 else genotype.name
        for kind in KINDS:
            title = f"{who}, {_NAMES[kind]}"
            texts[f"expert{number}-{kind}"] = cell_dot(expert.pairs(kind), expert.concat(kind), title)
    texts["experts"] = experts_dot(genotype.experts, genotype.name)
    drawn = [render(text, Path(out_dir) / stem) for stem, text in texts.items()]
    paths = tuple(path for one in drawn for path in one.paths)
    return Rendered(paths, drawn[0].renderer, drawn[0].note)
