"""Columns of a table as checked numbers."""

import math
import numbers
from typing import Any

import numpy as np
import pandas as pd

from chunkglm._types import AnyArray, FloatArray
from chunkglm.design._messages import list_names, quote
from chunkglm.design._text import parse_cell
from chunkglm.errors import DesignError

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


def check_size(shape: tuple[int, ...], source: str) -> None:
    """Refuse a table without rows or without columns."""
    if 0 in shape:
        raise DesignError(
            f"{source} has {shape[0]} rows and {shape[1]} columns; it needs at least one of each"
        )


def check_names(names: tuple[str, ...], source: str) -> None:
    """Refuse names that are empty or occur twice."""
    if not all(names):
        raise DesignError(
            f"{source}: column {names.index('')} (counted from 0) has no name; give it one"
        )
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
    fill = "fill in"
    if np.isnan(values[0, j]) and not bad[1:, j].any():
        fill = "fill in (load_confounds does, where fMRIPrep leaves out the first row)"
    raise DesignError(
        f"{source}: column {quote(names[j])} has {kind} in row {row} (counted from 0), and "
        f"in {int(bad[:, j].sum())} of {len(values)} rows in all; {fill}, or drop the column"
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
