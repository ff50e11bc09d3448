"""Draw the cells of a genotype as SVG and PNG pictures and as Graphviz text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lbgnas.cli import Parser, guarded
from lbgnas.errors import LbgnasError
from lbgnas.genotype import KINDS, load, published_names, resolve, short_pairs


def run(argv: Sequence[str]) -> None:
    """Draw, then print each cell in short form and where each picture lies."""
    parser = Parser(__doc__)
    parser.add_argument("--genotype", help="a genotype file, or the name of a published one (DARTS_V2)")
    parser.add_argument(
        "--out", type=Path, help="folder (default: drawings beside the file, or runs/drawings/NAME for a name)"
    )
    options = parser.parsed(argv)
    if options["genotype"] is None:
        raise LbgnasError("--genotype: needed; a file that a search wrote, or the name of a published one (DARTS_V2)")
    from lbgnas.report.drawing import draw_genotype

    path = resolve(options["genotype"])
    genotype = load(path)
    is_name = options["genotype"] in published_names()
    usual = Path("runs", "drawings", options["genotype"]) if is_name else path.parent / "drawings"
    drawn = draw_genotype(genotype, options["out"] or usual)
    for number, expert in enumerate(genotype.experts):
        for kind in KINDS:
            print(f"expert {number} {kind}: {short_pairs(expert.pairs(kind))}")
    print(*drawn.paths, sep="\n")
    if drawn.note:
        print(f"visualize: {drawn.note}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(guarded("visualize", run))
