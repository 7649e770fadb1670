"""One BLAS thread per task, so that dask's threads and BLAS's do not fight for the cores."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

_lock = threading.Lock()
_inside = 0
_limit: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread while any task of this process is inside.

    Two threads that fight cost 9 to 20 times the time. Limits that each task sets and restores for
    itself race, and the last to leave restores what another had set; so the first task in sets the
    limit and the last one out lifts it, wherever the tasks run: threads, workers, or a notebook.
    """
    global _inside, _limit
    with _lock:
        if _inside == 0:
            _take_control()
            _limit = _controller().limit(limits=1, user_api="blas")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _take_control()
                _limit.restore_original_limits()
                _limit = None
                _take_control()


def _take_control() -> None:
    """Let whichever thread comes next set the limits.

    Since threadpoolctl 3.8 the first thread to set one owns OpenBLAS's, and what others set is
    ignored in silence. Here the first thread in and the last one out are seldom the same.
    """
    for library in _controller().lib_controllers:
        release = getattr(library, "clear_controlling_thread", None)
        if release is not None:
            release(force=True)


@cache
def _controller() -> ThreadpoolController:
    # Finding the libraries takes milliseconds, setting their limit microseconds.
    return ThreadpoolController()
