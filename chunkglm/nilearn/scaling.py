"""Signals scaled by means over a mask, as nilearn's ``signal_scaling`` 1 and (0, 1)."""

from dataclasses import replace

import numpy as np
import xarray as xr

from chunkglm._types import BoolArray, FloatArray
from chunkglm.glm import Fit
from chunkglm.kernels.moments import in_units
from chunkglm.kernels.smoothing import axis_weights, sigma_in_voxels
from chunkglm.nilearn.effects import moments_of
from chunkglm.schema import SPACE, TIME

_SMALLEST_MEAN = 1.0  # nilearn's


def grand_mean(fit: Fit) -> float:
    """Return the mean of all volumes and voxels of a fit, from its moments; no data are read.

    Parameters
    ----------
    fit : Fit
        With its moments in memory, of a signal that is not scaled.

    Returns
    -------
    float
        At least 1, as in nilearn. Voxels that are not finite are left out.
    """
    moments = moments_of(fit)
    # The sum of d = r + Qc over time, and d is about the reference.
    constant = fit.factor.shifted_basis(moments.n_lags).sums.constant
    total = moments.total + constant @ moments.products[0]
    means = moments.reference + total / fit.factor.segments.n_kept
    means = means[np.isfinite(means)]
    return max(float(means.mean()), _SMALLEST_MEAN) if means.size else _SMALLEST_MEAN


def fit_in_percent(fit: Fit, mean: float) -> Fit:
    """Return the fit of the run in percent of a number, from the moments of the run as it is."""
    percent = in_units(moments_of(fit), 100.0 / mean, -100.0)
    values = {n: (fit.dataset[n].dims, v) for n, v in percent._asdict().items()}
    return replace(fit, dataset=fit.dataset.assign(values))


def run_in_percent(run: xr.DataArray, mean: xr.DataArray | float) -> xr.DataArray:
    """Return a run in percent of a mean, lazily.

    To be smoothed afterwards: that changes neither the scale of a volume nor a constant.
    """
    percent = (100.0 * (run / mean - 1.0)).transpose(*SPACE, TIME)
    percent.attrs = dict(run.attrs)
    return percent


def by_volume(run: xr.DataArray, mask: BoolArray, fwhm: float | None) -> xr.DataArray:
    """Return a run in percent of each volume's mean over the mask, lazily but for those means.

    Parameters
    ----------
    run : (x, y, z, time) DataArray
    mask : (x, y, z) bool array
    fwhm : float, optional
        Of the smoothing that follows; nilearn takes means of smoothed data. A mean is a weighted
        sum, and the weights of the smoothed data's are the mask smoothed by the transpose.
    """
    sigma = sigma_in_voxels(fwhm, np.asarray(run.attrs["affine"])) if fwhm else ()
    weights = xr.DataArray(_weights(mask, sigma), dims=SPACE)
    finite = run.where(np.isfinite(run), 0) if run.dtype.kind == "f" else run
    means = np.maximum(xr.dot(finite, weights, dim=SPACE).compute(), _SMALLEST_MEAN)
    return run_in_percent(run, means.drop_vars(TIME, errors="ignore"))


def _weights(mask: BoolArray, sigma: tuple[float, ...]) -> FloatArray:
    weights = mask / np.count_nonzero(mask)
    for axis, width in enumerate(sigma):
        smooth = axis_weights(mask.shape[axis], width)
        weights = np.moveaxis(np.tensordot(smooth.T, weights, axes=(1, axis)), 0, axis)
    return weights
