"""Where the face's arrays are computed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
import dask.threaded


@contextmanager
def workers(n_jobs: int | None) -> Iterator[None]:
    """Compute in threads, as many as `n_jobs`, or wherever the user's dask is set to.

    1, -1 and None leave their number to dask.
    """
    settings: dict[str, Any] = {} if n_jobs in (1, -1, None) else {"num_workers": n_jobs}
    if dask.config.get("scheduler", None) is None and "distributed" not in sys.modules:
        # dask imports distributed to ask for a client: 184 modules and 10 MB, and there can be no
        # client while it is not imported.
        settings["scheduler"] = dask.threaded.get
    with dask.config.set(settings):
        yield
