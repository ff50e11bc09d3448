"""Classify a folder of images with a trained run: class, expert and confidence of each, as CSV."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lbgnas.cli import Parser, guarded, start_torch, whole_number
from lbgnas.errors import LbgnasError


def run(argv: Sequence[str]) -> None:
    """Load the model, answer for every image, write and print."""
    parser = Parser(__doc__)
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="of evaluate.py or train_groups.py")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="images, also in folders below it")
    parser.add_argument("--out", type=Path, metavar="FILE", help="CSV file (default: print)")
    parser.add_argument("--batch-size", metavar="N", default="256", help="images at once (default: 256)")
    parser.add_argument("--skip-bad-images", action="store_true", help="leave out files that cannot be read")
    parser.add_argument("--device", metavar="NAME", default="auto", help="auto, cpu, cuda or cuda:N")
    options = parser.parsed(argv)
    for name in ("run", "images"):
        if options[name] is None:
            raise LbgnasError(f"--{name}: needed")
    device = start_torch(options["device"], None)
    from lbgnas.engine.grouped_model import load_model
    from lbgnas.engine.predict import predict_folder, to_csv
    from lbgnas.files import write_text

    model = load_model(options["run"]).to(device)
    size = whole_number("--batch-size", options["batch_size"], 1)
    answers, skipped = predict_folder(model, options["images"], size, options["skip_bad_images"])
    if options["out"] is None:
        print(to_csv(answers), end="")
        return
    write_text(options["out"], to_csv(answers))
    print(f"{len(answers)} images: {options['out']}")
    for what, counts in (
        ("class", Counter(answer.label for answer in answers)),
        ("expert", Counter(str(answer.expert) for answer in answers)),
    ):
        print(f"{what}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    if skipped:
        print(f"left out, cannot be read: {', '.join(skipped)}")


if __name__ == "__main__":
    sys.exit(guarded("predict", run))
