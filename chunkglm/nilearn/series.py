"""Series of a fitted run, by nilearn's definitions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dask
import numpy as np

from chunkglm._types import BoolArray, FloatArray
from chunkglm.errors import ParameterError
from chunkglm.glm import Fit
from chunkglm.kernels.segments import whole_run
from chunkglm.schema import SPACE, TIME

_NAMES = ("residuals", "normalized_residuals", "predicted", "SSE", "r_square", "MSE")


def series_of(fit: Fit, run: Any, attribute: str, mask: BoolArray) -> FloatArray:
    """Return an attribute of nilearn's results.

    Parameters
    ----------
    fit : Fit
    run : DataArray
        That was fitted.
    attribute : str
        ``predicted``, the prediction of the whitened data; ``residuals``, the data less that
        prediction; ``normalized_residuals``, the same over the deviation of the noise;
        ``r_square``, the share of the whitened data's variance that is predicted; ``SSE`` and
        ``MSE`` of the whitened residuals.
    mask : (x, y, z) bool array

    Returns
    -------
    (T, V) array, or (1, V)
        0 in voxels without a statistic.
    """
    if attribute not in _NAMES:
        msg = f"attribute must be one of {_NAMES}, but is {attribute!r}"
        raise ParameterError(msg)
    fit, run = _as_shorter(fit, run)
    lazy: Mapping[str, Any] = {
        "predicted": fit.predicted(whitened=True),
        "left": fit.residuals(run, whitened=True),
    }
    if attribute.endswith("residuals"):
        lazy = {**lazy, "data": fit.predicted() + fit.residuals(run), "sigma2": fit.sigma2}
    found = {
        name: values[mask].T for name, values in dask.compute(_arrays(lazy))[0].items()
    }  # (T, V)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(_of(attribute, found, fit.dof), posinf=0.0, neginf=0.0)


def _as_shorter(fit: Fit, run: Any) -> tuple[Fit, Any]:
    """Of a run with dropped volumes, the run and the fit as if these had never been there."""
    segments = fit.factor.segments
    if segments.n_kept == segments.n_volumes:
        return fit, run
    dataset, kept = fit.dataset, {TIME: segments.kept}
    dataset = dataset.isel(kept) if TIME in dataset.coords else dataset
    factor = replace(fit.factor, segments=whole_run(segments.n_kept))
    return replace(fit, dataset=dataset, factor=factor), run.isel(kept)


def _arrays(lazy: Mapping[str, Any]) -> dict[str, Any]:
    return {
        n: a.transpose(*SPACE, *([TIME] if TIME in a.dims else [])).data for n, a in lazy.items()
    }


def _of(attribute: str, found: Mapping[str, FloatArray], dof: int) -> FloatArray:
    predicted, left = found["predicted"], found["left"]
    if attribute == "predicted":
        return predicted
    if attribute == "r_square":
        return np.atleast_2d(np.var(predicted, axis=0) / np.var(predicted + left, axis=0))
    if attribute in ("SSE", "MSE"):
        return np.atleast_2d((left**2).sum(axis=0)) / (dof if attribute == "MSE" else 1)
    residuals = found["data"] - predicted
    return residuals if attribute == "residuals" else residuals / np.sqrt(found["sigma2"])
