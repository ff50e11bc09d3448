"""Write gate and experts of a trained run as one file for other programs: torch.export and ONNX."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lbgnas.cli import Parser, guarded, start_torch
from lbgnas.errors import LbgnasError


def run(argv: Sequence[str]) -> None:
    """Load the model, write it in each format, check and print."""
    parser = Parser(__doc__)
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="of evaluate.py or train_groups.py")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: the run's folder)")
    parser.add_argument("--formats", metavar="NAME,...", default="pt2,onnx", help="pt2 and onnx (default: both)")
    options = parser.parsed(argv)
    if options["run"] is None:
        raise LbgnasError("--run: needed")
    start_torch("cpu", None)
    from lbgnas.engine.export import OUTPUTS, export
    from lbgnas.engine.grouped_model import load_model

    model = load_model(options["run"])
    info = model.info
    for done in export(model, options["out"] or options["run"], options["formats"].split(",")):
        print(f"{done.path}: largest difference from the model {done.difference:.1e}")
    print(f"input: images, any number x {info.channels} x {info.size} x {info.size}, in [0, 1]")
    print(f"outputs: {', '.join(OUTPUTS)}")
    print(f"classes: {', '.join(info.class_names)}")


if __name__ == "__main__":
    sys.exit(guarded("export", run))
