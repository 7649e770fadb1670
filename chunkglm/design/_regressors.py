"""Tables as named regressors; columns that count rows or hold frame times are none."""

import re

import numpy as np
import pandas as pd

from chunkglm._types import FloatArray
from chunkglm.design._messages import list_names, quote
from chunkglm.design._tables import check_finite, check_names, check_size, numeric_column
from chunkglm.errors import DesignError, warn_user

# What pandas calls a column without a name when it reads one, and when it reads that again.
_NO_NAME = re.compile(r"(?:Unnamed: \d+(?:\.\d+)*)?")
_FRAME_TIMES = re.compile(r"frame[ _-]?times?", re.IGNORECASE)


def regressors(
    table: pd.DataFrame, source: str, *, named: bool = True
) -> tuple[FloatArray, tuple[str, ...]]:
    """Return a table's regressors, checked.

    Parameters
    ----------
    table : (T, k) DataFrame
    source : str
        What messages call it.
    named : bool
        False where its names are only numbers, as those of a file without a header are.

    Returns
    -------
    values : (T, k) float64 array
    names : tuple of k str
        Stripped.
    """
    check_size(table.shape, source)
    if named:
        table = _without_index(table, source)
    names = tuple(str(name).strip() for name in table.columns)
    check_names(names, source)
    columns = [numeric_column(table.iloc[:, j], name, source) for j, name in enumerate(names)]
    values = np.column_stack(columns)
    check_finite(values, names, source)
    return values, names


def _without_index(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return a table without the columns that are an index; a warning says which.

    Parameters
    ----------
    table : (T, k) DataFrame
    source : str
        What messages call it.

    Returns
    -------
    DataFrame
        Without the first columns if they have no name and increase (row numbers or frame times, as
        pandas writes an index), and without a column called ``frame_times``.

    Raises
    ------
    DesignError
        When any other column has no name, or ``frame_times`` does not increase.
    """
    kept, leading = [], True
    for j, name in enumerate(table.columns):
        text = "" if pd.isna(name) else str(name).strip()
        if _NO_NAME.fullmatch(text):
            if not (leading and _increases(table, j, source)):
                raise DesignError(
                    f"{source}: column {j} (counted from 0) has no name, and does not increase "
                    "from row to row as an index does; give it a name, or drop it"
                )
            _tell(source, f"its column {j} has no name and increases from row to row")
        elif _FRAME_TIMES.fullmatch(text):
            if not _increases(table, j, source):
                raise DesignError(
                    f"{source}: column {quote(text)} does not increase from row to row, so it "
                    "holds no frame times; drop it, or give it another name"
                )
            _tell(source, f"its column {quote(text)} holds the times of the rows")
        else:
            kept.append(j)
            leading = False
    if not kept:
        raise DesignError(f"{source} has no regressors but only {list_names(table.columns)}")
    return table.iloc[:, kept] if len(kept) < table.shape[1] else table


def without_row_numbers(values: FloatArray, source: str) -> FloatArray:
    """Return the columns of a file without a header, without row numbers (0, 1, ...) if first.

    A first column of other even steps stays: it may be a drift as well as times. A warning says
    what was done.

    Parameters
    ----------
    values : (T, k) array
    source : str

    Returns
    -------
    (T, k) or (T, k - 1) array
    """
    first = values[:, 0]
    if len(first) < 2 or values.shape[1] < 2:
        return values
    if np.array_equal(first, np.arange(len(first))):
        _tell(source, "it has no header, and its first column counts the rows")
        return values[:, 1:]
    steps = np.diff(first)
    # Frame times written with three decimals jitter by 1e-3 s, that is 0.1 % of a TR of 1 s.
    if first[0] >= 0 and steps[0] > 0 and np.ptp(steps) <= 0.02 * steps[0]:
        msg = (
            f"{source}: it has no header, and its first column increases by {steps[0]:g} from row "
            "to row; it is taken as a regressor: if these are frame times, drop them"
        )
        warn_user(msg)
    return values


def _increases(table: pd.DataFrame, j: int, source: str) -> bool:
    """Tell whether a column counts up from 0 or later: row numbers or times, perhaps with gaps."""
    try:
        values = numeric_column(table.iloc[:, j], table.columns[j], source)
    except DesignError:
        return False
    return bool(np.isfinite(values).all() and values[0] >= 0 and (np.diff(values) > 0).all())


def _tell(source: str, why: str) -> None:
    warn_user(f"{source}: {why}: it is taken as the index, not as a regressor")
