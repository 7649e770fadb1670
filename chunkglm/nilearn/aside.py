"""Moments of fits on disk between contrasts, for who asks for little memory."""

import mmap
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from chunkglm.glm import Fit
from chunkglm.kernels.pages import SMALLEST

# Two thirds or more of what a fit holds.
_LARGEST = "products"


def put_aside(fit: Fit) -> Fit:
    """Move the largest moments of a fit into a file without a name, which ends with them.

    The arrays are the file's pages: read from it when looked at, and let go by `let_go`. Where
    the folder for temporary files has no room, they stay in memory.
    """
    values = fit.dataset[_LARGEST].to_numpy()
    if values.nbytes < SMALLEST:
        return fit
    try:
        with tempfile.TemporaryFile(prefix="chunkglm-") as file:
            values.tofile(file)
            file.flush()
            there = np.memmap(file, values.dtype, "r", shape=values.shape)
    except OSError:
        return fit
    held = fit.dataset[_LARGEST].copy(data=there)
    found = replace(fit, dataset=fit.dataset.assign({_LARGEST: held}))
    let_go([found])
    return found


def let_go(fits: Iterable[Fit]) -> None:
    """Let the pages of what was put aside go, until they are looked at again."""
    for fit in fits:
        pages = _pages_of_file(fit.dataset[_LARGEST].to_numpy())
        if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
            pages.madvise(mmap.MADV_DONTNEED)


def _pages_of_file(array: Any) -> mmap.mmap | None:
    """Return the pages of an array in a file; None for one in memory, which would be lost."""
    of_file = False
    while isinstance(array, np.ndarray):
        of_file |= isinstance(array, np.memmap) and not array.flags.writeable
        array = array.base
    return array if of_file and isinstance(array, mmap.mmap) else None
