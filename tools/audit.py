"""Audit any model's predictions for fairness between groups: Markdown, CSV and a plot."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lbgnas.cli import Parser, guarded, whole_number
from lbgnas.errors import LbgnasError


def run(argv: Sequence[str]) -> None:
    """Read the predictions, measure, write, print."""
    parser = Parser(__doc__, usage="%(prog)s PREDICTIONS.csv --label y --prediction p --sensitive a [--flag value ...]")
    parser.add_argument("predictions", type=Path, nargs="?", help="CSV file with a header, one row a sample")
    parser.add_argument("--label", metavar="COLUMN", help="the true label")
    parser.add_argument("--prediction", metavar="COLUMN", help="the predicted label")
    parser.add_argument("--sensitive", metavar="COLUMN[,COLUMN]", help="sensitive attributes; several are combined")
    parser.add_argument("--score", metavar="COLUMN", help="probability of the positive label")
    parser.add_argument("--by", metavar="COLUMN", help="audit each value of this column (such as the expert) as well")
    parser.add_argument("--positive", metavar="LABEL", help="the positive label, against all others (default: 1)")
    parser.add_argument("--privileged", metavar="VALUE", help="subtract this group: makes spd, eod and aod signed")
    parser.add_argument("--resamples", metavar="N", default="1000", help="bootstrap samples for intervals")
    parser.add_argument("--seed", metavar="N", default="0", help="of the bootstrap")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: beside the predictions)")
    options = parser.parsed(argv)
    for name in ("predictions", "label", "prediction", "sensitive"):
        if options[name] is None:
            flag = "PREDICTIONS.csv" if name == "predictions" else f"--{name}"
            raise LbgnasError(f"{flag}: needed")
    from lbgnas.fairness.audit import audit
    from lbgnas.report.audit import markdown, write_audit

    path: Path = options["predictions"]
    reports, divergence = audit(
        path,
        label=options["label"],
        prediction=options["prediction"],
        sensitive=options["sensitive"].split(","),
        score=options["score"],
        by=options["by"],
        positive=options["positive"],
        privileged=options["privileged"],
        n_boot=whole_number("--resamples", options["resamples"]),
        random_state=whole_number("--seed", options["seed"]),
    )
    stem = (options["out"] or path.parent) / f"{path.stem}-audit"
    print(markdown(path.name, reports, divergence))
    paths, amiss = write_audit(stem, path.name, reports, divergence)
    print(*paths, sep="\n")
    if amiss:
        print(f"audit: {amiss}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(guarded("audit", run))
