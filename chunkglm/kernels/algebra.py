"""Moments of one model from those of another, without the data."""

import numpy as np

from chunkglm._types import FloatArray
from chunkglm.kernels.factor import DesignFactor


def within(inner: DesignFactor, outer: DesignFactor) -> FloatArray:
    """``G`` with ``Q_inner = Q_outer G``, for a design in the span of another.

    Parameters
    ----------
    inner, outer : DesignFactor
        Of the same volumes.

    Returns
    -------
    (r, r') array
        ``(S_d Q_inner)'y = G' (S_d Q_outer)'y`` for any series y and lag d.
    """
    return np.asarray(outer.basis.T @ inner.basis)


def recombine(products: FloatArray, matrix: FloatArray) -> FloatArray:
    """Products of the data with combinations of the basis.

    Parameters
    ----------
    products : (p + 1, r, V) array
        See `Moments`.
    matrix : (r, r') array
        From `within`.

    Returns
    -------
    (p + 1, r', V) array
    """
    return np.asarray(matrix.T @ products)
