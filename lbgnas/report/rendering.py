"""From Graphviz text to pictures.

The text is always written. Pictures are drawn by `dot` where it is installed, else by `graphviz-pure`
(a program that pip installs: `pip install 'lbgnas[draw]'`).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lbgnas.errors import LbgnasError

RENDER_SECONDS = 120
NO_RENDERER = "no pictures, for neither `dot` nor `graphviz-pure` was found: pip install 'lbgnas[draw]'"


@dataclass(frozen=True)
class Rendered:
    """The files written, the program that drew them (None: only text), and what the user should know."""

    paths: tuple[Path, ...]
    renderer: str | None
    note: str = ""


def find_renderer() -> str | None:
    """Return the program that draws: `dot` on the PATH, else `graphviz-pure` beside Python or on the PATH."""
    beside = str(Path(sys.executable).parent)
    return shutil.which("dot") or shutil.which("graphviz-pure", path=beside) or shutil.which("graphviz-pure")


def _run(renderer: str, dot_text: str, path: Path, form: str) -> None:
    # Screens are dense: at Graphviz' own 96 dots per inch the labels of a PNG are blurred.
    dense = ["-Gdpi=144"] if form == "png" else []
    try:
        done = subprocess.run(
            [renderer, f"-T{form}", *dense, f"-o{path}"],
            input=dot_text.encode(),
            capture_output=True,
            timeout=RENDER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LbgnasError(f"{path}: {renderer} took more than {RENDER_SECONDS} seconds") from None
    except OSError as error:
        raise LbgnasError(f"{path}: {renderer} cannot be run: {error.strerror or error}") from None
    if done.returncode != 0 or not path.is_file():
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise LbgnasError(f"{path}: {renderer} failed: {lines[-1]}")


def render(dot_text: str, out_stem: Path, formats: Sequence[str] = ("svg", "png")) -> Rendered:
    """Write the text to `out_stem`.gv and, if a renderer is there, a picture for each format beside it.

    Args:
        dot_text: Graphviz text.
        out_stem: path of the files without their suffix; its folder is made if need be.
        formats: names Graphviz knows; `graphviz-pure` knows svg, png, jpeg and json.

    Raises:
        LbgnasError: the folder cannot be written, or the renderer failed; holds the renderer's last line.
    """
    paths = [out_stem.with_name(f"{out_stem.name}.{form}") for form in ("gv", *formats)]
    try:
        out_stem.parent.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(dot_text, encoding="utf-8")
    except OSError as error:
        raise LbgnasError(f"{paths[0]}: cannot be written: {error.strerror or error}") from None
    renderer = find_renderer()
    if renderer is None:
        return Rendered((paths[0],), None, NO_RENDERER)
    for path, form in zip(paths[1:], formats, strict=True):
        _run(renderer, dot_text, path, form)
    return Rendered(tuple(paths), renderer)
