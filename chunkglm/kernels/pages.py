"""Memory that is used again, and goes back to the system as soon as it is let go."""

import mmap
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from chunkglm._types import AnyArray, FloatArray

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


class Scratch:
    """Numbers that one thread overwrites again and again.

    Fresh pages cost more to touch than most of what is done with them: of two runs of
    64 x 64 x 30 x 191 they were 130 MB.

    Parameters
    ----------
    make : callable, optional
        Makes as many as it is told. For a single block, memory that was used before, ``np.empty``,
        takes a twentieth of the block's time less.
    """

    def __init__(self, make: Callable[[tuple[int, ...]], FloatArray] = own_pages) -> None:
        self._make = make
        self._numbers: FloatArray = np.empty(0)

    def take(self, n: int) -> FloatArray:
        """Give n of them, which hold anything, and are overwritten when they are next taken."""
        if self._numbers.size < n:
            self._numbers = self._make((n,))
        return self._numbers[:n]
