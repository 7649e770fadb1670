"""Where arrays are computed, without loading a cluster's library to find that there is none."""

import sys
from typing import Any

import dask
import dask.threaded


def here_unless_told() -> dict[str, Any]:
    """Arguments for ``compute``: this process's threads, unless dask was told of anything else.

    dask imports distributed to ask for a client: 184 modules, 10 MB and a tenth of the time of a
    small job, and there can be no client while it is not imported.
    """
    if dask.config.get("scheduler", None) is None and "distributed" not in sys.modules:
        return {"scheduler": dask.threaded.get}
    return {}
