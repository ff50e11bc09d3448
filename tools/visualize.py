"""Draw the cells of a genotype."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lbgnas.errors import LbgnasError
from lbgnas.genotype import KINDS, load, published_names, resolve, short_pairs


@dataclass(frozen=True)
class Options:
    """Draw the cells of a genotype as SVG and PNG pictures and as Graphviz text."""

    genotype: str
    """A genotype file, or the name of a published one such as DARTS_V2."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Folder for the pictures; if not given, `drawings` beside the file, or runs/drawings/NAME for a name."""


def main(options: Options) -> None:
    """Draw, then print each cell in short form and where each picture lies."""
    from lbgnas.report.drawing import draw_genotype

    path = resolve(options.genotype)
    genotype = load(path)
    is_name = options.genotype in published_names()
    usual = Path("runs", "drawings", options.genotype) if is_name else path.parent / "drawings"
    drawn = draw_genotype(genotype, options.out or usual)
    for number, expert in enumerate(genotype.experts):
        for kind in KINDS:
            print(f"expert {number} {kind}: {short_pairs(expert.pairs(kind))}")
    print(*drawn.paths, sep="\n")
    if drawn.note:
        print(f"visualize: {drawn.note}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main(tyro.cli(Options))
    except LbgnasError as error:
        print(f"visualize: {error}", file=sys.stderr)
        sys.exit(2)
