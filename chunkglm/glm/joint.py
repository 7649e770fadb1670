"""Several fits at once: loaded together, and joined into one model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import dask

from chunkglm.errors import DesignError
from chunkglm.glm.fitted import Fit

Fits = TypeVar("Fits", bound=Mapping[Any, Fit] | Sequence[Fit])


def load_together(fits: Fits) -> Fits:
    """Compute the moments of several fits and hold them in memory, as `Fit.load` does for one.

    Parameters
    ----------
    fits : dict or list of Fit
        Those of several designs for one run are computed in one pass over it.

    Returns
    -------
    dict or list of Fit
        As they were given.

    Raises
    ------
    DesignError
        When anything but fits is given.
    """
    every: list[Any] = list(fits.values() if isinstance(fits, Mapping) else fits)
    for fit in every:
        if not isinstance(fit, Fit):
            msg = f"fits must be a dict or list of Fit, but one is {type(fit).__name__}"
            raise DesignError(msg)
    datasets = dask.compute(*(fit.dataset for fit in every))
    loaded = [replace(fit, dataset=found) for fit, found in zip(every, datasets, strict=True)]
    if isinstance(fits, Mapping):
        return dict(zip(fits, loaded, strict=True))  # type: ignore[return-value]
    return loaded  # type: ignore[return-value]
