"""A progress bar while lazy work is computed in this process."""

from collections.abc import Iterator
from contextlib import contextmanager

from dask.diagnostics import ProgressBar


@contextmanager
def progress_bar(*, show: bool = True) -> Iterator[None]:
    """Show how many of the tasks computed inside are done, on standard output.

    Parameters
    ----------
    show : bool
    """
    if not show:
        yield
        return
    with ProgressBar(dt=0.2):
        yield
