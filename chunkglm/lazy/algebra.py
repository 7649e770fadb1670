"""Moments of one model from those of another, lazily."""

import dask.array as da
import numpy as np
from dask.base import tokenize

from chunkglm._types import FloatArray
from chunkglm.kernels.algebra import recombine
from chunkglm.lazy.blas import one_blas_thread


def recombined(products: da.Array, matrix: FloatArray) -> da.Array:
    """Products of the data with combinations of the basis.

    Parameters
    ----------
    products : (p + 1, r, voxel) dask array
        Chunked over voxels only.
    matrix : (r, r') array

    Returns
    -------
    (p + 1, r', voxel) dask array
    """
    chunks = (products.chunks[0], (matrix.shape[1],), products.chunks[2])
    return da.map_blocks(
        _recombine,
        products,
        matrix,
        chunks=chunks,
        dtype=np.float64,
        meta=np.empty((0, 0, 0)),
        name="recombined-" + tokenize(products.name, matrix),
    )


def _recombine(products: FloatArray, matrix: FloatArray) -> FloatArray:
    with one_blas_thread():
        return recombine(products, matrix)
