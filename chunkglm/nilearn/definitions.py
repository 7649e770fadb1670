"""Contrasts as nilearn's users define them, as weights of each run's columns."""

import warnings
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import numpy as np

from chunkglm._types import FloatArray
from chunkglm.design import parse_contrast
from chunkglm.errors import ContrastError


def weights_of_runs(
    contrast_def: Any, columns: Sequence[list[str]], *, stacklevel: int
) -> list[FloatArray]:
    """Return the weights (q, k) of each run's k columns.

    Parameters
    ----------
    contrast_def : str, (k,) or (q, k) array, or list of one for each run
        Expressions are parsed; short vectors are filled with zeros, as in nilearn.
    columns : sequence of lists of str
        Of each run's design.
    stacklevel : int
        Of nilearn's warnings, counted from the caller.

    Raises
    ------
    ContrastError
    """
    each = _one_each(contrast_def, len(columns), stacklevel + 2)
    return list(map(_weights, each, columns, repeat(stacklevel + 2)))


def _one_each(contrast_def: Any, n_runs: int, stacklevel: int) -> list[Any]:
    """Return one definition for each run."""
    if isinstance(contrast_def, (str, np.ndarray)):
        contrast_def = [contrast_def]
    if not isinstance(contrast_def, (list, tuple)):
        msg = "contrast_def must be an array or str or list of (array or str)."
        raise ContrastError(msg)
    if len(contrast_def) == 1 and n_runs > 1:
        msg = (
            f"The same contrast will be used for all {n_runs} runs. If the design matrices are "
            "not the same for all runs, (for example with different column names or column "
            "order across runs) you should pass contrast as an expression using the name of "
            "the conditions as they appear in the design matrices."
        )
        warnings.warn(msg, RuntimeWarning, stacklevel=stacklevel)
        return list(contrast_def) * n_runs
    if len(contrast_def) != n_runs:
        msg = f"{len(contrast_def)} contrasts given, while there are {n_runs} runs."
        raise ContrastError(msg)
    return list(contrast_def)


def _weights(definition: Any, columns: list[str], stacklevel: int) -> FloatArray:
    if isinstance(definition, str):
        return np.array(parse_contrast(definition, columns).weights)
    given = np.atleast_2d(np.asarray(definition, dtype=np.float64))
    short = len(columns) - given.shape[1]
    if short > 0:
        msg = (
            f"a contrast of {given.shape[1]} weights for {len(columns)} columns: "
            "the rest are taken as 0"
        )
        warnings.warn(msg, UserWarning, stacklevel=stacklevel)
        given = np.pad(given, ((0, 0), (0, short)))
    return given
