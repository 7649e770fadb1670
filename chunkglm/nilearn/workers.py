"""Where the face's arrays are computed."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask

from chunkglm.lazy.where import here_unless_told


def n_threads(n_jobs: int | None) -> int | None:
    """Return how many threads `n_jobs` asks for; 1, -1 and None leave their number open."""
    return None if n_jobs in (1, -1, None) else n_jobs


@contextmanager
def workers(n_jobs: int | None) -> Iterator[None]:
    """Compute in threads, as many as `n_jobs`, or wherever the user's dask is set to.

    1, -1 and None leave their number to dask. Afterwards what they freed goes back to the system.
    """
    asked = n_threads(n_jobs)
    settings: dict[str, Any] = {} if asked is None else {"num_workers": asked}
    with dask.config.set({**settings, **here_unless_told()}):
        yield
    give_back()


def give_back() -> None:
    """Let go of what the C library keeps of freed memory for each thread: 10 MB of two runs'."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # glibc's alone
            trim(0)
