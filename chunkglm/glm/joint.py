"""Several fits at once: loaded together, and joined into one model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

import dask
import numpy as np

from chunkglm._types import FloatArray
from chunkglm.design import Design, list_names
from chunkglm.errors import DesignError
from chunkglm.glm.fitted import Fit
from chunkglm.kernels.algebra import Part, of_runs, within
from chunkglm.kernels.factor import factor_design
from chunkglm.kernels.segments import joined
from chunkglm.lazy.algebra import moments_of_moments
from chunkglm.lazy.where import here_unless_told
from chunkglm.schema import MOMENTS, TIME

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
    datasets = dask.compute(*(fit.dataset for fit in every), **here_unless_told())
    loaded = [replace(fit, dataset=found) for fit, found in zip(every, datasets, strict=True)]
    if isinstance(fits, Mapping):
        return dict(zip(fits, loaded, strict=True))  # type: ignore[return-value]
    return loaded  # type: ignore[return-value]


def concatenate(fits: Sequence[Fit], shared: str | Sequence[str]) -> Fit:
    """Join the fits of several runs into one model, from their moments alone; lazy.

    Regressors named in `shared` have one coefficient for all runs; of all others each run has its
    own, named ``run1_drift``, ``run2_drift`` and so on. Noise is estimated once for all runs, and
    no lag goes from one run into the next. No data are read.

    Parameters
    ----------
    fits : sequence of Fit
        On the same voxels, with the same noise model, scaling and smoothing. Each run is scaled by
        its own mean.
    shared : str or list of str
        Regressors, each of at least one run; a run without one has 0 there.

    Returns
    -------
    Fit
        Its volumes are the kept ones of all runs, end to end; `Fit.residuals` is for single runs.

    Raises
    ------
    DesignError
        When the fits do not belong together, or a name is no regressor of any.
    """
    _check_alike(fits)
    first = fits[0]
    design = _block_design(fits, [shared] if isinstance(shared, str) else list(shared))
    segments = joined([fit.factor.segments for fit in fits])
    factor = factor_design(design.values, segments)
    edges = np.cumsum([0, *(fit.factor.n_kept for fit in fits)]).tolist()
    n_lags = min(fit.dataset.sizes["lag"] for fit in fits) - 1
    parts = [
        Part(fit.factor.shifted_basis(n_lags).sums, within(factor.basis[a:b], fit.factor.basis))
        for fit, (a, b) in zip(fits, pairwise(edges), strict=True)
    ]
    chunks = first.slabs.voxel_chunks
    inputs = [
        {name: a.rechunk({a.ndim - 1: chunks}) for name, a in fit.moments.items()} for fit in fits
    ]
    arguments = ([fit.model for fit in fits], parts)
    arrays = moments_of_moments(inputs, of_runs, arguments, factor.shifted_basis(n_lags))
    found = {name: (MOMENTS[name].dims, a, MOMENTS[name].attrs()) for name, a in arrays.items()}
    attrs = {
        **first.dataset.attrs,
        "run": ", ".join(str(fit.dataset.attrs["run"]) for fit in fits),
        "joined_runs": len(fits),
    }
    kept = [*MOMENTS, *([TIME] if TIME in first.dataset.coords else [])]
    dataset = first.dataset.drop_vars(kept).assign(found).assign_attrs(attrs)
    return replace(first, dataset=dataset, design=design, factor=factor)


def _check_alike(fits: Sequence[Fit]) -> None:
    if isinstance(fits, Fit) or len(fits) < 2 or not all(isinstance(fit, Fit) for fit in fits):
        msg = f"fits must be a list of two Fits or more, but got {fits!r:.80}"
        raise DesignError(msg)
    first = fits[0]
    for fit in fits[1:]:
        apart = {
            "masks": not np.array_equal(fit.slabs.mask, first.slabs.mask),
            "affines": not np.allclose(fit.grid.matrix(), first.grid.matrix(), rtol=0, atol=1e-4),
            "noise models": fit.noise != first.noise,
            "scalings": fit.scaling != first.scaling,
            "smoothing": fit.dataset.attrs["smoothing_fwhm"]
            != first.dataset.attrs["smoothing_fwhm"],
        }
        if any(apart.values()):
            what = ", ".join(name for name, differs in apart.items() if differs)
            msg = (
                f"{fit.dataset.attrs['run']} and {first.dataset.attrs['run']} cannot be joined: "
                f"they have other {what}; fit them alike"
            )
            raise DesignError(msg)
        if "joined_runs" in fit.dataset.attrs or "joined_runs" in first.dataset.attrs:
            msg = "fits that are joined already cannot be joined again; join the runs' own at once"
            raise DesignError(msg)


def _block_design(fits: Sequence[Fit], shared: Sequence[str]) -> Design:
    """Shared columns first, then each run's own; rows of kept volumes."""
    every = [name for fit in fits for name in fit.design.names]
    for name in shared:
        if name not in every:
            known = list(dict.fromkeys(every))
            msg = f"no run has the regressor {name!r}; their regressors are {list_names(known)}"
            raise DesignError(msg)
    columns: dict[str, FloatArray] = {}
    edges = np.cumsum([0, *(fit.factor.n_kept for fit in fits)]).tolist()
    own: dict[str, FloatArray] = {}
    for i, (fit, (a, b)) in enumerate(zip(fits, pairwise(edges), strict=True), 1):
        values = fit.factor.segments.rows_of(fit.design.values)
        for name, column in zip(fit.design.names, values.T, strict=True):
            into, key = (columns, name) if name in shared else (own, f"run{i}_{name}")
            into.setdefault(key, np.zeros(edges[-1]))[a:b] = column
    ordered = {name: columns[name] for name in shared} | own
    names = tuple(ordered)
    return Design(np.column_stack(list(ordered.values())), names, f"{len(fits)} runs")
