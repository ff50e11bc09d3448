"""The least error that any classifier can have with the DP and DEO of a row of the paper's Table 1.

    python benchmarks/least_error.py [--rates 0.679 0.279] [--share 0.417]

A classifier is four numbers here: true- and false-positive rate of both groups, each from 0 to 1. Error is linear in
them, and so are DP and DEO once the signs of their differences are chosen: a linear programme for every choice.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import numpy as np
import yaml
from scipy.optimize import linprog

TABLES = Path(__file__).parent / "paper_tables.yaml"


def least_error(dp: float, deo: float, kind: str, rates: tuple[float, float], share: float) -> float:
    """Return the least error, a fraction; NaN if no classifier has this DP and DEO.

    Args:
        dp: |P(p=1 | a=0) - P(p=1 | a=1)|.
        deo: "sum": |TPR_0 - TPR_1| + |FPR_0 - FPR_1|; "max": the larger of the two.
        kind: which of them.
        rates: P(y=1 | a) of both groups.
        share: of the group a = 1.
    """
    weights = (1 - share, share)
    # x = TPR_0, TPR_1, FPR_0, FPR_1
    cost = np.array(
        [-w * r for w, r in zip(weights, rates, strict=True)]
        + [w * (1 - r) for w, r in zip(weights, rates, strict=True)]
    )
    constant = sum(w * r for w, r in zip(weights, rates, strict=True))
    selected = np.array([rates[0], -rates[1], 1 - rates[0], rates[1] - 1])
    gaps = np.array([[1, -1, 0, 0], [0, 0, 1, -1]])
    found = []
    for first, *signs in product((1, -1), repeat=3):
        signed = gaps * np.array(signs)[:, None]
        positive = (-signed, np.zeros(2))
        for larger in (0, 1):
            equal = signed.sum(0) if kind == "sum" else signed[larger]
            below = positive if kind == "sum" else (np.vstack([-signed, signed]), np.array([0, 0, deo, deo]))
            done = linprog(cost, *below, np.vstack([first * selected, equal]), [dp, deo], bounds=(0, 1))
            if done.success:
                found.append(constant + done.fun)
    return min(found, default=float("nan"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs=2, default=(0.679, 0.279), help="of Attractive: women, men")
    parser.add_argument("--share", type=float, default=0.417, help="of men")
    options = parser.parse_args()
    print("| row | published error | least, DEO the sum | least, DEO the maximum |\n| --- | --- | --- | --- |")
    for row in yaml.safe_load(TABLES.read_text(encoding="utf-8"))["1"]["rows"]:
        values = row["published"]
        least = [
            100 * least_error(values["dp"], values["deo"], kind, tuple(options.rates), options.share)
            for kind in ("sum", "max")
        ]
        print(f"| {row['name']} | {values['error']:.2f} | {least[0]:.1f} | {least[1]:.1f} |")


if __name__ == "__main__":
    main()
