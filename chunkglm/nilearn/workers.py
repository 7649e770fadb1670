"""Where the face's arrays are computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask

from chunkglm.lazy.where import here_unless_told


@contextmanager
def workers(n_jobs: int | None) -> Iterator[None]:
    """Compute in threads, as many as `n_jobs`, or wherever the user's dask is set to.

    1, -1 and None leave their number to dask.
    """
    settings: dict[str, Any] = {} if n_jobs in (1, -1, None) else {"num_workers": n_jobs}
    with dask.config.set({**settings, **here_unless_told()}):
        yield
