"""Series of a fitted run: what the model predicts, and what it leaves."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr

from chunkglm.errors import DesignError, ImageError
from chunkglm.glm.runs import check_run, open_run, untouched_source
from chunkglm.kernels.smoothing import sigma_in_voxels
from chunkglm.lazy.series import RunRead, SeriesModel, predicted_array, residuals_array
from chunkglm.schema import SERIES, SPACE, TIME, VarSpec

if TYPE_CHECKING:
    from chunkglm.glm.fitted import Fit


def residuals_of(fit: "Fit", run: Any, *, whitened: bool) -> xr.DataArray:
    """See `Fit.residuals`."""
    if isinstance(run, (str, Path)):
        run = open_run(run)
    label = check_run(run)
    if fit.is_joined:
        msg = f"{label}: residuals are taken of the fit of one run, and this fit joins several"
        raise ImageError(msg)
    _check_same(fit, run, label)
    fwhm = fit.dataset.attrs["smoothing_fwhm"]
    data = run.transpose(*SPACE, TIME).data
    read = RunRead(
        data if isinstance(data, da.Array) else da.from_array(data),
        untouched_source(run),
        sigma_in_voxels(fwhm, fit.grid.matrix()) if fwhm else None,
        label,
        str(fit.dataset.attrs["run"]),
    )
    array = residuals_array(read, _model_of(fit, whitened=whitened))
    name = "whitened_residuals" if whitened else "residuals"
    times = run.coords[TIME].variable if TIME in run.coords else None
    return _labelled(fit, array, SERIES[name], times)


def predicted_of(fit: "Fit", *, whitened: bool) -> xr.DataArray:
    """See `Fit.predicted`."""
    array = predicted_array(_model_of(fit, whitened=whitened))
    name = "whitened_predicted" if whitened else "predicted"
    times = fit.dataset.coords[TIME].variable if TIME in fit.dataset.coords else None
    return _labelled(fit, array, SERIES[name], times)


def _model_of(fit: "Fit", *, whitened: bool) -> SeriesModel:
    segments = fit.factor.segments
    if whitened and fit.noise.across_gaps and segments.n_kept < segments.n_volumes:
        msg = (
            "whitened series are filtered along the run, and across_gaps joins volumes that do not "
            "follow one another; fit run.isel(time=kept) instead, without a sample mask"
        )
        raise DesignError(msg)
    return SeriesModel(fit.solved_from, fit.slabs, fit.model, fit.factor.segments.ages, whitened)


def _check_same(fit: "Fit", run: xr.DataArray, label: str) -> None:
    """Refuse a run that cannot be the one fitted."""
    expected = (*fit.slabs.mask.shape, fit.factor.segments.n_volumes)
    found = tuple(run.sizes[d] for d in (*SPACE, TIME))
    if found != expected:
        msg = (
            f"{label}: its shape {found} must be that of the run that was fitted, "
            f"{fit.dataset.attrs['run']}, {expected}; pass the run of the fit"
        )
        raise ImageError(msg)


def _labelled(fit: "Fit", array: da.Array, spec: VarSpec, times: Any) -> xr.DataArray:
    coords: dict[str, Any] = {d: np.arange(n) for d, n in zip(SPACE, array.shape, strict=False)}
    if times is not None:
        coords[TIME] = times
    units = "percent of the mean" if fit.scaling == "percent" else "signal"
    attrs = {**spec.attrs(), "units": units, **fit.grid.attrs()}
    return xr.DataArray(array, dims=spec.dims, coords=coords, name=spec.name, attrs=attrs)
