"""The design matrix of a run: read from a table, an array or events, and checked."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from chunkglm._types import AnyArray, FloatArray
from chunkglm.design._arrays import read_numpy
from chunkglm.design._messages import list_names
from chunkglm.design._regressors import regressors, without_row_numbers
from chunkglm.design._tables import (
    check_array,
    check_count,
    check_finite,
    check_names,
    check_repetition_time,
    check_size,
)
from chunkglm.design._text import DELIMITERS, read_text_table
from chunkglm.design.events import design_from_events
from chunkglm.errors import DesignError


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Design:
    """The design matrix of one run. One that exists can be fitted, save for its rank.

    Parameters
    ----------
    values : (T, k) float64 array
        One row per volume, one column per regressor; copied, and read-only.
    names : tuple of k str
        Column names, stripped and unique.
    source : str
        Where it came from, for messages: a path, ``"DataFrame"`` or ``"array"``.
    """

    values: FloatArray
    names: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        names = tuple(str(name).strip() for name in self.names)
        values = check_array(np.asanyarray(self.values), self.source)
        check_size(values.shape, self.source)
        if len(names) != values.shape[1]:
            raise DesignError(
                f"{self.source} has {values.shape[1]} columns, but {len(names)} names; "
                "give one name per column"
            )
        # A long double beyond float64 becomes inf, which the check for finite values names.
        with np.errstate(over="ignore"):
            values = np.array(values, dtype=np.float64, order="C")
        _check_columns(values, names, self.source)
        values.flags.writeable = False
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "names", names)

    @property
    def n_scans(self) -> int:
        """Number of rows, one per volume."""
        return int(self.values.shape[0])

    @property
    def n_regressors(self) -> int:
        """Number of columns."""
        return int(self.values.shape[1])

    def __repr__(self) -> str:
        return (
            f"Design({self.n_scans} scans x {self.n_regressors} regressors from {self.source}: "
            f"{list_names(self.names)})"
        )


def load_design(
    design: Design | pd.DataFrame | AnyArray | str | os.PathLike[str],
    *,
    n_scans: int | None = None,
    t_r: float | None = None,
    volumes: FloatArray | None = None,
    n_kept: int | None = None,
) -> Design:
    """Return the design matrix of a run, read and checked.

    Parameters
    ----------
    design : Design, DataFrame, (T, k) array or path
        A design matrix, or a table of events (one with the columns ``onset`` and
        ``duration``), which `design_from_events` turns into one with its defaults. Files are
        ``.csv`` or ``.tsv`` with a header (without one, columns are named ``regressor_0``
        and on), ``.npy``, or ``.npz`` with the array ``X`` and its column names in ``names``,
        ``columns`` or ``conditions``, for all columns or for the first. First columns without a
        name that increase from row to row (row numbers, frame times), and a column called
        ``frame_times``, are an index and left out; so is the first of a file without a header if
        it counts the rows from 0.
    n_scans : int, optional
        Number of volumes of the run, which the design must have rows for.
    t_r : float, optional
        Repetition time in seconds; only events need it.
    volumes : (T,) array, optional
        Which volumes of the scan are left, where some were taken out: a design made from events
        has their rows.
    n_kept : int, optional
        Where some volumes are left out of the fit, how many are not: a design of as many rows is
        that of the kept volumes.

    Returns
    -------
    Design
        The values, column names and source.

    Raises
    ------
    DesignError
        When it cannot be read or used; rows in its message are counted from 0.

    Warns
    -----
    UserWarning
        When a column is left out as an index, naming it.
    """
    n_scans = None if n_scans is None else check_count(n_scans)
    t_r = None if t_r is None else check_repetition_time(t_r)
    note = ""
    if isinstance(design, Design):
        loaded = design
    elif isinstance(design, pd.DataFrame):
        loaded = _from_table(design, "DataFrame", n_scans, t_r, volumes)
    elif isinstance(design, np.ndarray):
        values = check_array(design, "array")
        loaded = Design(values, _default_names(0, values.shape[1]), "array")
    elif isinstance(design, (str, os.PathLike)):
        loaded, note = _from_file(Path(design), n_scans, t_r, volumes)
    else:
        raise DesignError(
            "a design must be a path, a DataFrame, a 2-D array or a Design, but got "
            f"{type(design).__name__}"
        )
    if n_scans is not None and loaded.n_scans not in (n_scans, n_kept):
        kept = f", of which {n_kept} are kept" if n_kept not in (None, n_scans) else ""
        raise DesignError(
            f"{loaded.source} has {loaded.n_scans} rows but the run has {n_scans} volumes{kept}; "
            f"give this run's design, one row per volume{note}"
        )
    return loaded


def _default_names(start: int, stop: int) -> tuple[str, ...]:
    return tuple(f"regressor_{j}" for j in range(start, stop))


def _check_columns(values: FloatArray, names: tuple[str, ...], source: str) -> None:
    """Refuse columns that no fit can use."""
    check_names(names, source)
    check_finite(values, names, source)
    zero = [name for j, name in enumerate(names) if not values[:, j].any()]
    if zero:
        raise DesignError(
            f"{source}: column {list_names(zero)} is zero in all {len(values)} rows; drop it"
        )
    if values.shape[1] >= values.shape[0]:
        raise DesignError(
            f"{source} has {values.shape[1]} columns for {values.shape[0]} rows, so nothing is "
            "left to estimate the noise from; use fewer columns (or transpose it)"
        )


def _from_table(
    table: pd.DataFrame,
    source: str,
    n_scans: int | None,
    t_r: float | None,
    volumes: FloatArray | None,
    path: Path | None = None,
) -> Design:
    """Make a Design of a table of regressors or of events, which `path` may name."""
    if {"onset", "duration"} <= {str(name).strip() for name in table.columns}:
        if n_scans is None or t_r is None:
            missing = "n_scans" if n_scans is None else "t_r"
            raise DesignError(
                f"{source} is a table of events (it has the columns onset and duration), but "
                f"{missing} is missing; pass {missing}= to make a design of it"
            )
        kept = _rows_kept(volumes, n_scans, source)
        events = table if path is None else path
        table = design_from_events(events, n_scans=int(kept[-1]) + 1, t_r=t_r).iloc[kept]
    values, names = regressors(table, source)
    return Design(values, names, source)


def _rows_kept(volumes: FloatArray | None, n_scans: int, source: str) -> AnyArray:
    """Rows of the whole scan's design that belong to the volumes left of it."""
    if volumes is None:
        return np.arange(n_scans)
    kept = np.rint(volumes).astype(np.int64)
    # Times written with three decimals are off by 1e-3 s, 0.1 % of a TR of 1 s.
    if np.abs(volumes - kept).max() > 0.01 or kept[0] < 0 or (np.diff(kept) <= 0).any():
        raise DesignError(
            f"{source} is a table of events, and the run's volumes lie {volumes[:4].tolist()}... "
            "repetition times after its start, not at whole ones in order; pass a design matrix"
        )
    return kept


def _from_file(
    path: Path, n_scans: int | None, t_r: float | None, volumes: FloatArray | None
) -> tuple[Design, str]:
    """Read a design file; the note says what a wrong number of rows may come from."""
    suffix = path.suffix.lower()
    if suffix in (".npz", ".npy"):
        values, given = read_numpy(path)
        names = (*given, *_default_names(len(given), values.shape[1]))
        return Design(values, names, str(path)), ""
    if suffix not in DELIMITERS:
        raise DesignError(
            f"{path} is not a design file, whose name ends in .csv, .tsv, .npz or .npy; "
            "save it as one of these"
        )
    table, has_header = read_text_table(path)
    if has_header:
        return _from_table(table, str(path), n_scans, t_r, volumes, path), ""
    values, _ = regressors(table, str(path), named=False)
    values = without_row_numbers(values, str(path))
    design = Design(values, _default_names(0, values.shape[1]), str(path))
    return design, " (its first line holds only numbers and was read as data, not as names)"
