"""What goes wrong, said in one sentence: what was given, where, what is allowed, and the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LbgnasError(ValueError):
    """Any fault a user can mend; the tools print it as one sentence, without a traceback.

    Example:
        >>> raise LbgnasError("seed: -1 is below 0")
        Traceback (most recent call last):
        lbgnas.errors.LbgnasError: seed: -1 is below 0
    """


def unknown(what: str, given: object, allowed: Iterable[str], where: str = "") -> LbgnasError:
    """Return the error for a name that is not among the allowed ones, with the nearest valid one.

    Args:
        what: the kind of thing named, such as "operation".
        given: what was found.
        allowed: every valid name.
        where: file and key, or the flag, that held it.

    Example:
        >>> print(unknown("base", "dart", ["darts", "pcdarts"], "--base"))
        --base: unknown base 'dart'; allowed are darts, pcdarts; did you mean 'darts'?
    """
    names = [str(name) for name in allowed]
    close = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    prefix = f"{where}: " if where else ""
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return LbgnasError(f"{prefix}unknown {what} {str(given)!r}; allowed are {', '.join(names) or 'none'}{hint}")
