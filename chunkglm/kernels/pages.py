"""Memory that goes back to the system as soon as it is let go."""

import mmap
from math import prod
from typing import Any

import numpy as np

from chunkglm._types import AnyArray

# Below this an array is the C library's to place.
SMALLEST = 1 << 20


def own_pages(shape: tuple[int, ...], dtype: Any = np.float64) -> AnyArray:
    """Zeros, in pages of their own where they are many.

    The C library keeps what a thread frees for that thread, up to twice the largest array that was
    ever freed; and every run is read by a new one. Two runs of 64 x 64 x 30, fitted one after the
    other, leave 20 MB behind that way.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype, optional

    Returns
    -------
    array
        C-contiguous.
    """
    kind = np.dtype(dtype)
    n_bytes = prod(shape) * kind.itemsize
    if n_bytes < SMALLEST:
        return np.zeros(shape, kind)
    pages = mmap.mmap(-1, n_bytes, access=mmap.ACCESS_COPY)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # As numpy asks for its own: turning a block takes large strides, a page each.
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.ndarray(shape, kind, buffer=pages)
