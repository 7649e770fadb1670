"""Which volumes of a run are kept: flags or indices, from an array or a file, checked."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from chunkglm._types import AnyArray, BoolArray
from chunkglm.design._messages import quote
from chunkglm.design._text import DELIMITERS, parse_cell, read_bytes
from chunkglm.errors import DesignError

_FLAGS = {"true": 1.0, "false": 0.0}


def load_sample_mask(sample_mask: Any, n_scans: int) -> BoolArray:
    """Return which volumes are kept.

    Parameters
    ----------
    sample_mask : None, (T,) bool array, integer array, or path
        True where a volume is kept, or the indices of those kept, counted from 0, as nilearn has
        them. A text file (``.txt``, ``.csv``, ``.tsv``) holds one value a line, after a header or
        without: T flags of 0 and 1 (or true and false), or indices; ``.npy`` an array of either
        kind. None keeps all.
    n_scans : int
        Number of volumes T.

    Returns
    -------
    (T,) bool array

    Raises
    ------
    DesignError
        When it is neither, does not fit the run, or keeps nothing.
    """
    if sample_mask is None:
        return np.ones(n_scans, dtype=bool)
    source = "sample_mask"
    if isinstance(sample_mask, (str, os.PathLike)):
        source = str(Path(sample_mask))
        values = _from_file(Path(sample_mask), n_scans)
    else:
        values = np.asarray(sample_mask)
    if values.ndim != 1 or values.dtype.kind not in "biu":
        raise DesignError(
            f"{source} must be one row of booleans, or of indices of the volumes to keep, but got "
            f"shape {values.shape} of {values.dtype}"
        )
    keep = _flags(values, n_scans, source) if values.dtype == bool else None
    if keep is None:
        keep = _of_indices(values, n_scans, source)
    if not keep.any():
        raise DesignError(f"{source} keeps none of the {n_scans} volumes; keep some")
    return keep


def _flags(values: AnyArray, n_scans: int, source: str) -> BoolArray:
    if values.size != n_scans:
        raise DesignError(
            f"{source} has {values.size} flags but the run has {n_scans} volumes; give one for "
            "each, true where a volume is kept"
        )
    return np.array(values, dtype=bool)


def _of_indices(values: AnyArray, n_scans: int, source: str) -> BoolArray:
    outside = (values < 0) | (values >= n_scans)
    if outside.any():
        raise DesignError(
            f"{source} keeps volume {values[outside][0]}, but the run has {n_scans} volumes, "
            f"counted from 0 to {n_scans - 1}; give indices within them"
        )
    kept, counts = np.unique(values, return_counts=True)
    if (counts > 1).any():
        hint = "; for flags give booleans" if kept[-1] <= 1 else "; give each once"
        raise DesignError(f"{source} keeps volume {kept[counts > 1][0]} more than once{hint}")
    keep = np.zeros(n_scans, dtype=bool)
    keep[kept.astype(np.intp)] = True
    return keep


def _from_file(path: Path, n_scans: int) -> AnyArray:
    data = read_bytes(path)
    if path.suffix.lower() == ".npy":
        try:
            with path.open("rb") as file:
                return np.asarray(np.load(file, allow_pickle=False))
        except (ValueError, OSError, EOFError) as error:
            raise DesignError(
                f"{path} cannot be read ({quote(error)}); save the mask with np.save, as booleans "
                "or indices"
            ) from error
    if path.suffix.lower() not in (*DELIMITERS, ".txt"):
        raise DesignError(
            f"{path} is not a sample mask, whose name ends in .txt, .csv, .tsv or .npy; save it as "
            "one of these"
        )
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DesignError(f"{path} is not text in UTF-8; save it again as UTF-8") from error
    cells = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if cells and _number(cells[0][1]) is None:
        cells = cells[1:]  # a header
    values = [_number(cell) for _, cell in cells]
    for (number, cell), value in zip(cells, values, strict=True):
        if value is None or value != np.floor(value) or abs(value) > 2**31:
            raise DesignError(
                f"{path}: line {number} holds {quote(cell)}; a sample mask has one flag (0 or 1) "
                "or one index of a kept volume on each line"
            )
    found = np.array(values, dtype=np.int64)
    if found.size == n_scans and found.size > 2 and np.isin(found, (0, 1)).all():
        return found.astype(bool)
    return found


def _number(cell: str) -> float | None:
    return _FLAGS.get(cell.lower(), parse_cell(cell))
