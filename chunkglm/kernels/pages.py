"""Memory that is used again, and goes back to the system as soon as it is let go."""

import mmap
from collections.abc import Callable, Mapping
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

from chunkglm._types import AnyArray, FloatArray

# Below this an array is the C library's to place.
SMALLEST = 1 << 20
_LINE = 64  # bytes of a line of a cache
# Linux places whole ones so that none is made of small pages: 6 MB are touched in 0.2 ms, where 6.5
# MB, of which a third lies in small ones, take 1.3, and seven arrays of 1 MB 2.
HUGE_PAGE = 2 << 20


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
    pages = mmap.mmap(-1, -(-n_bytes // HUGE_PAGE) * HUGE_PAGE, access=mmap.ACCESS_COPY)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # As numpy asks for its own: turning a block takes large strides, a page each.
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.ndarray(shape, kind, buffer=pages)


def side_by_side(arrays: Mapping[str, tuple[tuple[int, ...], Any]]) -> dict[str, AnyArray]:
    """Zeros for several arrays, all of those that are smaller than a huge page in the same ones.

    Such a one is kept until the last array in it is let go.

    Parameters
    ----------
    arrays : mapping
        Shape and dtype, by name.

    Returns
    -------
    dict of arrays
        C-contiguous, and aligned as a core's cache is.
    """
    wanted = {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in arrays.items()}
    sizes = {name: prod(shape) * dtype.itemsize for name, (shape, dtype) in wanted.items()}
    small = [name for name, n_bytes in sizes.items() if n_bytes < HUGE_PAGE]
    *starts, total = accumulate((-(-sizes[n] // _LINE) * _LINE for n in small), initial=0)
    shared = own_pages((total,), np.uint8)
    offsets = dict(zip(small, starts, strict=True))
    return {
        name: np.ndarray(shape, dtype, shared, offsets[name])
        if name in offsets
        else own_pages(shape, dtype)
        for name, (shape, dtype) in wanted.items()
    }


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
