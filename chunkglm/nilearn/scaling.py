"""Signals scaled by means over a mask, as nilearn's ``signal_scaling`` 1 and (0, 1)."""

from typing import Any

import numpy as np
import xarray as xr
from scipy.ndimage import gaussian_filter1d

from chunkglm._types import BoolArray, FloatArray
from chunkglm.kernels.smoothing import sigma_in_voxels
from chunkglm.schema import SPACE, TIME

_SMALLEST_MEAN = 1.0  # nilearn's


def scaled(run: xr.DataArray, mask: BoolArray, axis: Any, fwhm: float | None) -> xr.DataArray:
    """Return a run in percent of the mean over the mask's voxels, lazily but for that mean.

    Parameters
    ----------
    run : (x, y, z, time) DataArray
    mask : (x, y, z) bool array
    axis : {1, (0, 1)}
        The mean of each volume, or one of all volumes.
    fwhm : float, optional
        Of the smoothing that follows; nilearn takes means of smoothed data. A mean is a weighted
        sum, and the weights of the smoothed data's are the mask smoothed by the transpose.

    Returns
    -------
    DataArray
        To be smoothed afterwards: that changes neither the scale of a volume nor a constant.
    """
    sigma = sigma_in_voxels(fwhm, np.asarray(run.attrs["affine"])) if fwhm else ()
    weights = xr.DataArray(_weights(mask, sigma), dims=SPACE)
    finite = run.where(np.isfinite(run), 0) if run.dtype.kind == "f" else run
    mean = xr.dot(finite, weights, dim=SPACE).compute()
    mean = np.maximum(mean if axis == 1 else mean.mean(TIME), _SMALLEST_MEAN)
    percent: xr.DataArray = 100.0 * (run / mean.drop_vars(TIME, errors="ignore") - 1.0)
    percent = percent.transpose(*SPACE, TIME)
    percent.attrs = dict(run.attrs)
    return percent


def _weights(mask: BoolArray, sigma: tuple[float, ...]) -> FloatArray:
    weights = mask / np.count_nonzero(mask)
    for axis, width in enumerate(sigma):
        if width > 0:
            smooth = gaussian_filter1d(np.eye(mask.shape[axis]), width, axis=0)
            weights = np.moveaxis(np.tensordot(smooth.T, weights, axes=(1, axis)), 0, axis)
    return weights
