"""Confounds, as fMRIPrep writes them: regressors by name or pattern, and volumes to keep."""

import os
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from chunkglm._types import AnyArray, BoolArray, FloatArray, IntArray
from chunkglm.design._messages import list_names, quote, suggest
from chunkglm.design._regressors import regressors, without_row_numbers
from chunkglm.design._tables import check_array, check_finite, check_size, numeric_column
from chunkglm.design._text import DELIMITERS, read_text_table
from chunkglm.errors import DesignError

FirstRow = Literal["next", "zero", "mean"]

OUTLIERS = ("non_steady_state_outlier*", "motion_outlier*")

_ROWS_SHOWN = 10


def load_confounds(
    table: pd.DataFrame | str | os.PathLike[str],
    columns: str | Sequence[str],
    *,
    optional: str | Sequence[str] = (),
    first_row: FirstRow = "next",
) -> pd.DataFrame:
    """Take confounds from a table such as fMRIPrep's ``confounds_timeseries.tsv``.

    Parameters
    ----------
    table : DataFrame or path
        ``.tsv`` or ``.csv`` file with a header, one row per volume.
    columns : str or sequence of str
        Names, or patterns such as ``"trans_*"``, ``"rot_?"`` and ``"cosine*"`` (``*``, ``?`` and
        ``[...]``, upper and lower case apart). Each must match something.
    optional : str or sequence of str
        Names and patterns that may match nothing: runs without a bad volume have no
        ``"motion_outlier*"``.
    first_row : {"next", "zero", "mean"}
        What replaces an ``n/a`` in the first row, where differences to the volume before
        (``*_derivative1``, ``framewise_displacement``, ``dvars``) have no value: that of the second
        row, as nilearn's ``load_confounds`` has it, 0, or the mean of the others.

    Returns
    -------
    (T, c) DataFrame
        In the order asked for, columns of one pattern in the table's; none twice. Values are as in
        the table, not centred. For ``design_from_events(..., confounds=...)``.

    Raises
    ------
    DesignError
        When a name or pattern matches nothing, or a column is not finite elsewhere than ``n/a`` in
        the first row; rows in its message are counted from 0.
    """
    if first_row not in ("next", "zero", "mean"):
        raise DesignError(f"first_row must be 'next', 'zero' or 'mean', but got {first_row!r}")
    read, source = _read(table)
    wanted = [(pattern, True) for pattern in _patterns(columns, "columns")]
    wanted += [(pattern, False) for pattern in _patterns(optional, "optional")]
    if not wanted:
        raise DesignError(f"{source}: no columns are asked for; name some, or a pattern")
    names = _matching(wanted, read, source)
    found = {name: _filled(_values(read, name, source), name, source, first_row) for name in names}
    return pd.DataFrame(found)


def sample_mask_from_confounds(
    table: pd.DataFrame | str | os.PathLike[str],
    *,
    outliers: str | Sequence[str] = OUTLIERS,
    max_fd: float | None = None,
    max_std_dvars: float | None = None,
) -> IntArray:
    """Tell which volumes to keep, from a table such as fMRIPrep's ``confounds_timeseries.tsv``.

    Parameters
    ----------
    table : DataFrame or path
        As for `load_confounds`.
    outliers : str or sequence of str
        Columns that are not 0 at the volumes to leave out. A pattern may match nothing, for runs
        without bad volumes have no such columns; a plain name must be there.
    max_fd : float, optional
        Leave out volumes whose ``framewise_displacement`` is above this, in mm.
    max_std_dvars : float, optional
        Leave out volumes whose ``std_dvars`` is above this.

    Returns
    -------
    (n,) int64 array
        Numbers of the volumes to keep, counted from 0, for ``fit(..., sample_mask=...)``. An
        ``n/a`` in the first row leaves nothing out.

    Raises
    ------
    DesignError
        When a column is missing or not finite, or no volume is left.
    """
    read, source = _read(table)
    plain = [(pattern, not _is_glob(pattern)) for pattern in _patterns(outliers, "outliers")]
    left_out = np.zeros(len(read), dtype=bool)
    for name in _matching(plain, read, source):
        left_out |= _filled(_values(read, name, source), name, source, "zero") != 0
    for name, most in (("framewise_displacement", max_fd), ("std_dvars", max_std_dvars)):
        if most is not None:
            (found,) = _matching([(name, True)], read, source)
            left_out |= _above(_values(read, found, source), name, source, most)
    if left_out.all():
        raise DesignError(
            f"{source}: all {len(read)} volumes are outliers, and none is left; raise the limits"
        )
    return np.flatnonzero(~left_out).astype(np.int64)


def confound_regressors(
    confounds: pd.DataFrame | AnyArray | str | os.PathLike[str], n_scans: int
) -> pd.DataFrame:
    """Return all confounds of a table or array as a named table of finite numbers.

    Parameters
    ----------
    confounds : DataFrame, (n_scans, c) array or path
    n_scans : int

    Returns
    -------
    (n_scans, c) DataFrame
        Those without a name are called ``confound_0`` and on.
    """
    source, named = "confounds", True
    if isinstance(confounds, pd.DataFrame):
        values, names = regressors(confounds, source)
    elif isinstance(confounds, np.ndarray):
        named = False
        array = check_array(confounds, source)
        check_size(array.shape, source)
        values, names = regressors(pd.DataFrame(array), source, named=False)
    elif isinstance(confounds, (str, os.PathLike)):
        source = str(Path(confounds))
        table, named = text_table(Path(confounds))
        values, names = regressors(table, source, named=named)
        if not named:
            values = without_row_numbers(values, source)
    else:
        raise DesignError(
            "confounds must be a path, a DataFrame or a 2-D array, but got "
            f"{type(confounds).__name__}"
        )
    if len(values) != n_scans:
        raise DesignError(
            f"{source} has {len(values)} rows but the run has {n_scans} volumes; give this "
            "run's confounds, one row per volume"
        )
    if not named:
        names = tuple(f"confound_{j}" for j in range(values.shape[1]))
    return pd.DataFrame(values, columns=list(names))


def text_table(path: Path) -> tuple[pd.DataFrame, bool]:
    """Read a ``.csv`` or ``.tsv`` file, and tell whether it has a header."""
    if path.suffix.lower() not in DELIMITERS:
        raise DesignError(f"{path} is not a .csv or .tsv file; save the table as one of these")
    return read_text_table(path)


def _read(table: Any) -> tuple[pd.DataFrame, str]:
    """Return the table with its columns as stripped text, and what to call it in messages."""
    if isinstance(table, pd.DataFrame):
        read, source = table, "confounds"
    elif isinstance(table, (str, os.PathLike)):
        source = str(Path(table))
        read, has_header = text_table(Path(table))
        if not has_header:
            raise DesignError(
                f"{source} has no header: its first line holds only numbers; confounds are "
                "taken by name"
            )
    else:
        raise DesignError(
            f"confounds must be a path or a DataFrame, but got {type(table).__name__}"
        )
    check_size(read.shape, source)
    return read.set_axis([str(name).strip() for name in read.columns], axis=1), source


def _patterns(given: Any, what: str) -> list[str]:
    listed = [given] if isinstance(given, str) else list(given) if _is_listed(given) else [None]
    if not all(isinstance(pattern, str) and pattern for pattern in listed):
        raise DesignError(f"{what} must be a name or pattern, or a list of them, but got {given!r}")
    return [str(pattern) for pattern in listed]


def _is_listed(given: Any) -> bool:
    return isinstance(given, Iterable) and not isinstance(given, (bytes, dict))


def _is_glob(pattern: str) -> bool:
    return any(character in pattern for character in "*?[")


def _matching(wanted: list[tuple[str, bool]], table: pd.DataFrame, source: str) -> list[str]:
    """Return the columns that patterns match, in their order; those that are needed must."""
    names = [str(name) for name in table.columns]
    found: dict[str, None] = {}
    for pattern, needed in wanted:
        # A name may hold brackets: as it stands it comes first.
        here = [pattern] if pattern in names else [n for n in names if fnmatchcase(n, pattern)]
        if needed and not here:
            kind = "columns that match" if _is_glob(pattern) else "column"
            near = suggest(pattern.rstrip("*"), names)
            raise DesignError(
                f"{source} has no {kind} {quote(pattern)}{near}; it has: {list_names(names)}"
            )
        found.update(dict.fromkeys(here))
    twice = [name for name in found if names.count(name) > 1]
    if twice:
        raise DesignError(f"{source} has more than one column {list_names(twice)}; keep one")
    return list(found)


def _values(table: pd.DataFrame, name: str, source: str) -> FloatArray:
    return numeric_column(table[name], name, source)


def _filled(values: FloatArray, name: str, source: str, first_row: FirstRow) -> FloatArray:
    """Return a column whose first row may be missing, filled; nothing else may be."""
    _check_after_first(values, name, source)
    if np.isnan(values[0]):
        if first_row != "zero" and len(values) < 2:
            raise DesignError(f"{source}: column {quote(name)} has one row, and it is n/a")
        values = values.copy()
        later = {"next": values[1:2], "mean": values[1:]}
        values[0] = later[first_row].mean() if first_row in later else 0.0
    check_finite(values[:, np.newaxis], (name,), source)
    return values


def _check_after_first(values: FloatArray, name: str, source: str) -> None:
    rows = (np.flatnonzero(np.isnan(values[1:])) + 1).tolist()
    if rows:
        shown = ", ".join(map(str, rows[:_ROWS_SHOWN]))
        more = f" and {len(rows) - _ROWS_SHOWN} more" if len(rows) > _ROWS_SHOWN else ""
        raise DesignError(
            f"{source}: column {quote(name)} is n/a in row {shown}{more} (counted from 0), and "
            "only the first may be; fill in, or leave the column out"
        )


def _above(values: FloatArray, name: str, source: str, most: float) -> BoolArray:
    if isinstance(most, bool) or not isinstance(most, (int, float)) or not most > 0:
        raise DesignError(f"the limit of {name} must be a positive number, but got {most!r}")
    _check_after_first(values, name, source)
    return np.asarray(values > most)
