"""Reading of ``.csv`` and ``.tsv`` files into tables, cell by cell where care is needed."""

import csv
import io
import math
from pathlib import Path

import numpy as np
import pandas as pd

from chunkglm._types import AnyArray
from chunkglm.errors import DesignError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
_OTHERS = (",", "\t", ";", " ")
_WORDS = {",": "commas", "\t": "tabs", ";": "semicolons", " ": "spaces"}
# 6,804 volumes by 500 columns of 20 characters are 65 MiB; what is far larger is not a table
# of regressors, and is refused before it is read into memory.
MAX_BYTES = 512 * 2**20

_MISSING = ("", "n/a")


def read_bytes(path: Path) -> bytes:
    """Read a small file whole, with an error that names it when that cannot be."""
    try:
        if path.is_dir():
            raise DesignError(f"{path} is a folder, not a file; pass the table inside it")
        if not path.exists():
            raise DesignError(f"{path} does not exist; check the path")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DesignError(
                f"{path} has {size} bytes, but a table has at most {MAX_BYTES}; "
                "pass the design or events of one run"
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, DesignError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise DesignError(f"{str(path)!r} cannot be read: {reason}; check the path") from error


def parse_cell(cell: str) -> float | None:
    """Return the number a cell holds, NaN for a missing one, None for any other text."""
    text = cell.strip()
    if text in _MISSING:
        return math.nan
    # float() reads 1_000 and the digits of every script, which no table means as numbers.
    if "_" in text or not text.isascii():
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _text(path: Path) -> str:
    """Return a text file's text; an empty or binary file is refused."""
    data = read_bytes(path)
    if not data.strip():
        raise DesignError(f"{path} is empty; it needs a header line and one line per row")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DesignError(
            f"{path} is not text in UTF-8 (byte {data[error.start]:#04x} at {error.start}); "
            "save it again as UTF-8"
        ) from error
    if "\0" in text:
        raise DesignError(f"{path} is a binary file, not a text table; pass a .csv or .tsv file")
    # numpy.savetxt takes a header for a comment, and marks it.
    return text.removeprefix("# ")


def _split(path: Path, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Return (line number, cells) of every line that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=delimiter, strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if any(c.strip() for c in cells)]
    except csv.Error as error:
        raise DesignError(
            f"{path} cannot be read at line {reader.line_num}: {error}; check its quotes"
        ) from error


def _check_cells(path: Path, lines: list[tuple[int, list[str]]], delimiter: str) -> None:
    """Refuse ragged lines, and a file that is split by something else."""
    width = len(lines[0][1])
    if width == 1:
        _check_delimiter(path, [delimiter.join(cells) for _, cells in lines[:2]], delimiter)
    for number, cells in lines:
        if len(cells) != width:
            raise DesignError(
                f"{path} is ragged: line {number} has {len(cells)} cells, but line "
                f"{lines[0][0]} has {width}; give every line the same number of cells"
            )


def _check_delimiter(path: Path, lines: list[str], delimiter: str) -> None:
    """Refuse lines, of which the first is one cell, that something else splits."""
    for other in _OTHERS:
        if other == delimiter or not all(other in line.strip() for line in lines):
            continue
        # A name of several words, over a single column of numbers, is no table split by spaces.
        if other == " " and parse_cell(lines[-1].split()[0]) is None:
            continue
        raise DesignError(
            f"{path} is split by {_WORDS[other]}, but a {path.suffix} file is split by "
            f"{_WORDS[delimiter]}; save it with {_WORDS[delimiter]} between its cells"
        )


def _column(cells: tuple[str, ...]) -> AnyArray | list[str]:
    """Return int64 or float64 values when every cell is a number, else the text as it stands."""
    values = [parse_cell(cell) for cell in cells]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return list(cells)
    # Conditions called 1 and 2 must not become "1.0" and "2.0".
    whole = all(cell.strip().lstrip("+-").isdigit() for cell in cells)
    exact = whole and all(abs(value) < 2**53 for value in known)
    return np.array(known, dtype=np.int64 if exact else np.float64)


def read_text_table(path: Path) -> tuple[pd.DataFrame, bool]:
    """Read a ``.csv`` or ``.tsv`` file.

    Parameters
    ----------
    path : Path
        The file; its suffix says what separates the cells.

    Returns
    -------
    table : DataFrame
        One column per column of the file: numbers where every cell is a number or missing,
        text as it stands in the file otherwise. Columns without a name are called
        ``Unnamed: 0`` by their number, as pandas calls them.
    has_header : bool
        False when the first line held numbers only and was read as data.
    """
    delimiter = DELIMITERS[path.suffix.lower()]
    text = _text(path)
    plain = _plain_numbers(text, delimiter)
    if plain is not None:
        return plain, True
    lines = _split(path, text, delimiter)
    _check_cells(path, lines, delimiter)
    head = [cell.strip() for cell in lines[0][1]]
    parsed = [parse_cell(cell) for cell in head]
    has_header = not all(value is not None and math.isfinite(value) for value in parsed)
    rows = [cells for _, cells in lines[1 if has_header else 0 :]]
    if not rows:
        raise DesignError(f"{path} has a header but no rows; it needs one line per row")
    columns = [_column(cells) for cells in zip(*rows, strict=True)]
    names = [name or f"Unnamed: {j}" for j, name in enumerate(head)]
    table = pd.DataFrame(dict(enumerate(columns)))
    table.columns = pd.Index(names if has_header else range(len(columns)))
    return table, has_header


def _plain_numbers(text: str, delimiter: str) -> pd.DataFrame | None:
    """Return a table of nothing but numbers under a header, or None for any other.

    Cell by cell, a design of 6,804 rows and 20 columns (2.4 MB of text) takes 26 MB; so it takes 4.
    """
    header, *rows = text.splitlines()
    names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    # Events are read with care: conditions called 1 and 2 must not become "1.0" and "2.0".
    if not rows or {"onset", "duration", "", "Unnamed: 0"} & set(names):
        return None
    if any(parse_cell(name) is not None for name in names) or any("_" in row for row in rows):
        return None
    try:
        values = np.loadtxt(rows, delimiter=delimiter, comments=None, ndmin=2)
    except ValueError:
        return None  # read again, to say where and why
    if values.shape[1] != len(names):
        return None
    table = pd.DataFrame(values)
    table.columns = pd.Index(names)
    return table
