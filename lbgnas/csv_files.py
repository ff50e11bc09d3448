"""Columns of CSV files, with errors that name the line."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from pathlib import Path

from lbgnas.errors import LbgnasError, unknown


def read_header(path: Path) -> list[str]:
    """Return the names of a CSV file's columns."""
    return _read(path)[0]


def read_columns(path: Path, wanted: Sequence[str], may_be_empty: Collection[str] = ()) -> dict[str, list[str]]:
    """Return the wanted columns of a CSV file with a header, stripped of blanks around the values.

    Raises:
        LbgnasError: a file that cannot be read, a column that is not there, a row of another length than the
            header, an empty value in a column that must not have any; with the line.
    """
    header, rows = _read(path)
    for name in wanted:
        if name not in header:
            raise unknown("column", name, header, str(path))
    columns: dict[str, list[str]] = {name: [] for name in wanted}
    for line, row in rows:
        if len(row) != len(header):
            raise LbgnasError(f"{path}: line {line} has {len(row)} fields, the header has {len(header)}")
        for name, values in columns.items():
            value = row[header.index(name)].strip()
            if not value and name not in may_be_empty:
                raise LbgnasError(f"{path}: line {line} has nothing in column {name!r}")
            values.append(value)
    return columns


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            return header, [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LbgnasError(f"{path}: cannot be read as CSV ({getattr(error, 'strerror', None) or error})") from None
