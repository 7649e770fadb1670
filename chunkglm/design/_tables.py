"""Reading of tables: text files into columns, columns into checked numbers."""

import csv
import io
import math
import numbers
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from chunkglm._types import AnyArray, FloatArray
from chunkglm.design._messages import list_names, quote
from chunkglm.errors import DesignError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
# 6,804 volumes by 500 columns of 20 characters are 65 MiB; what is far larger is not a table
# of regressors, and is refused before it is read into memory.
MAX_BYTES = 512 * 2**20

_MISSING = ("", "n/a")


# Headers that hold milliseconds and say seconds, or nothing, are common.
LONGEST_T_R = 100.0


def check_count(n_scans: Any) -> int:
    """Return the number of volumes as an int, refusing what is not a positive whole number."""
    whole = isinstance(n_scans, numbers.Real) and not isinstance(n_scans, bool)
    if not whole or not math.isfinite(n_scans) or n_scans != int(n_scans) or n_scans < 1:
        raise DesignError(f"n_scans must be a positive whole number, but got {n_scans!r}")
    return int(n_scans)


def check_repetition_time(t_r: Any) -> float:
    """Return the repetition time as a float, refusing what is not a positive number."""
    real = isinstance(t_r, numbers.Real) and not isinstance(t_r, bool)
    if real and LONGEST_T_R < t_r < math.inf:
        raise DesignError(
            f"t_r must be in seconds, but {t_r!r} s is no repetition time of fMRI; if it is in "
            f"milliseconds, pass t_r={t_r / 1000:g}"
        )
    if not real or not math.isfinite(t_r) or t_r <= 0:
        raise DesignError(
            f"t_r must be a positive number of seconds, but got {t_r!r}; "
            "pass the run's repetition time"
        )
    return float(t_r)


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
    return text


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
    for number, cells in lines:
        if len(cells) != width:
            raise DesignError(
                f"{path} is ragged: line {number} has {len(cells)} cells, but line "
                f"{lines[0][0]} has {width}; give every line the same number of cells"
            )
    others = [other for other in (",", "\t", ";") if other != delimiter]
    for other in others:
        if width == 1 and all(other in cells[0] for _, cells in lines[:2]):
            raise DesignError(
                f"{path} is split by {other!r}, but a {path.suffix} file is split by "
                f"{delimiter!r}; save it as {delimiter!r}-separated text"
            )


def _is_index(values: FloatArray) -> bool:
    """Tell whether a column counts rows (0..T-1) or holds equally spaced frame times."""
    if values.size == 1:
        return bool(values[0] == 0)
    steps = np.diff(values)
    if not np.all(np.isfinite(steps)) or steps[0] <= 0:
        return False
    # Frame times written with three decimals jitter by 1e-3 s, that is 0.1 % of a TR of 1 s.
    mean = steps.mean()
    return bool(np.all(np.abs(steps - mean) <= 0.01 * mean))


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
        text as it stands in the file otherwise. A leading unnamed index column, as pandas
        writes it, is left out.
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
    if has_header and names[0] == "Unnamed: 0" and isinstance(columns[0], np.ndarray):
        start = 1 if _is_index(columns[0]) else 0
        names, columns = names[start:], columns[start:]
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


def _as_number(cell: Any) -> float | None:
    if cell is None or cell is pd.NA or cell is pd.NaT:
        return math.nan
    if isinstance(cell, str):
        return parse_cell(cell)
    if isinstance(cell, (numbers.Real, np.bool_)):
        try:
            return float(cell)
        except OverflowError:
            return None
    return None


def numeric_column(column: "pd.Series[Any]", name: object, source: str) -> FloatArray:
    """Return one column as float64, NaN where a value is missing.

    Parameters
    ----------
    column : (T,) Series
        Booleans, integers, floats, or objects that are each a number.
    name : object
        What an error calls the column.
    source : str
        What an error calls the table.
    """
    dtype = column.dtype
    if pd.api.types.is_complex_dtype(dtype):
        raise DesignError(
            f"{source}: column {quote(name)} is complex ({dtype}); give its real part"
        )
    if pd.api.types.is_numeric_dtype(dtype):
        # A long double beyond float64 becomes inf, which the check for finite values names.
        with np.errstate(over="ignore"):
            return column.to_numpy(dtype=np.float64, na_value=np.nan)
    values = np.empty(len(column))
    for row, cell in enumerate(column):
        number = _as_number(cell)
        if number is None:
            raise DesignError(
                f"{source}: column {quote(name)} is not numeric: it holds {quote(cell)} in row "
                f"{row} (counted from 0); give numbers there, or drop the column"
            )
        values[row] = number
    return values


def numeric_table(table: pd.DataFrame, source: str) -> tuple[FloatArray, tuple[str, ...]]:
    """Return a table as (T, k) float64 values and k stripped names, checked."""
    names = tuple(str(name).strip() for name in table.columns)
    check_size(table.shape, source)
    check_unique(names, source)
    columns = [numeric_column(table.iloc[:, j], name, source) for j, name in enumerate(names)]
    values = np.column_stack(columns)
    check_finite(values, names, source)
    return values, names


def check_size(shape: tuple[int, ...], source: str) -> None:
    """Refuse a table without rows or without columns."""
    if 0 in shape:
        raise DesignError(
            f"{source} has {shape[0]} rows and {shape[1]} columns; it needs at least one of each"
        )


def check_unique(names: tuple[str, ...], source: str) -> None:
    """Refuse names that occur twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DesignError(
            f"{source} has more than one column named {list_names(twice)}; "
            "give every column a name of its own"
        )


def check_finite(values: FloatArray, names: tuple[str, ...], source: str) -> None:
    """Refuse (T, k) values with a NaN or an infinite one, naming the first column and row."""
    bad = ~np.isfinite(values)
    if not bad.any():
        return
    j = int(np.argmax(bad.any(axis=0)))
    row = int(np.argmax(bad[:, j]))
    kind = "NaN (a missing value)" if np.isnan(values[row, j]) else "an infinite value"
    raise DesignError(
        f"{source}: column {quote(names[j])} has {kind} in row {row} (counted from 0), and "
        f"in {int(bad[:, j].sum())} of {len(values)} rows in all; fill in, or drop the column"
    )


def check_array(values: AnyArray, source: str) -> AnyArray:
    """Return a 2-D array of real numbers, refusing every other shape and type."""
    if values.ndim != 2:
        hint = "use reshape(-1, 1) for a single column" if values.ndim == 1 else "one row a volume"
        raise DesignError(
            f"{source} must be a 2-D array (volumes, regressors), but has shape {values.shape}; "
            f"{hint}"
        )
    if values.dtype.kind not in "biuf":
        kind = "complex" if values.dtype.kind == "c" else "not real numbers"
        raise DesignError(f"{source} is {kind} (dtype {values.dtype}); convert it to float64")
    if np.ma.is_masked(values):
        raise DesignError(f"{source} has masked values; fill them in, or drop the column")
    return np.asarray(values)
