"""From solutions back to series: what the model predicts of a block of time, and what it leaves."""

from typing import NamedTuple

import numpy as np

from chunkglm._types import AnyArray, FloatArray, IntArray
from chunkglm.kernels.estimate import solutions
from chunkglm.kernels.level import units_of
from chunkglm.kernels.moments import Moments
from chunkglm.kernels.noise import lower_orders
from chunkglm.kernels.solve import Model


class Curves(NamedTuple):
    """All that turns the data of V voxels into predictions and residuals.

    In the units of the fit the data are ``slope * (y - reference) + shift``, and the model says of
    them ``Q b + level``.
    """

    b: FloatArray  # (r, V)
    level: FloatArray  # (V,)
    slope: FloatArray  # (V,)
    reference: FloatArray  # (V,)
    shift: FloatArray  # (V,)
    ar: FloatArray  # (p, V), the coefficients of the whitening filter
    stationary: bool  # whether the filter begins as the stationary process does


def curves_of(moments: Moments, model: Model, autocorrelation: FloatArray | None = None) -> Curves:
    """Solve every voxel for its series.

    Parameters
    ----------
    moments : Moments
        Of a whole run, V voxels.
    model : Model
    autocorrelation : (p + 1, V) array, optional
        See `solve`.

    Returns
    -------
    Curves
        NaN in voxels that cannot be estimated.
    """
    n_voxels, rank = moments.reference.size, model.factor.rank
    order = model.noise.order
    b, level, ar = np.empty((rank, n_voxels)), np.empty(n_voxels), np.empty((order, n_voxels))
    for part, solution in solutions(moments, model, autocorrelation):
        b[:, part], level[part] = solution.b, solution.offset
        ar[:, part] = solution.phi
    with np.errstate(invalid="ignore", over="ignore"):
        slope, offset = units_of(moments, model.factor, model.percent)
        shift = slope * offset
    stationary = model.noise.initial == "stationary"
    return Curves(b, level, slope, moments.reference, shift, ar, stationary)


def predict(curves: Curves, basis: FloatArray) -> FloatArray:
    """What the model says of some volumes.

    Parameters
    ----------
    curves : Curves
    basis : (t, r) array
        The volumes' rows of `DesignFactor.basis`.

    Returns
    -------
    (t, V) array
        In the units of the fit.
    """
    out: FloatArray = basis @ curves.b
    out += curves.level
    return out


def leave(curves: Curves, basis: FloatArray, series: AnyArray) -> FloatArray:
    """What the model leaves of some volumes.

    Parameters
    ----------
    curves : Curves
    basis : (t, r) array
        The volumes' rows of `DesignFactor.basis`.
    series : (t, V) array
        The data, in their own units.

    Returns
    -------
    (t, V) array
        Residuals in the units of the fit.
    """
    # About the reference, and the constants last: of a mean of 1e4 times the noise the residuals
    # would keep four digits less.
    with np.errstate(invalid="ignore", over="ignore"):
        out: FloatArray = series - curves.reference
        out *= curves.slope
        out -= basis @ curves.b
        out += curves.shift - curves.level
    return out


def whiten(series: FloatArray, before: FloatArray, curves: Curves, ages: IntArray) -> FloatArray:
    """Filter a block of series: ``y_t - sum_i ar_i y_{t-i}``.

    Parameters
    ----------
    series : (t, V) array
    before : (n, V) array
        The volumes before the block, up to p of them.
    curves : Curves
    ages : (t,) array
        Volumes since the one with which the filter began anew. The first p are as they are, less
        the terms that there are; or for the stationary process what the best predictor from fewer
        samples leaves, at the scale of the others.

    Returns
    -------
    (t, V) array
    """
    whole = np.concatenate([before, series])
    rows = np.arange(len(series)) + len(before)
    out = series.copy()
    for lag, coefficient in enumerate(curves.ar, start=1):
        known = ages >= (len(curves.ar) if curves.stationary else lag)
        out[known] -= coefficient * whole[rows[known] - lag]
    if curves.stationary:
        with np.errstate(invalid="ignore", divide="ignore"):
            starts = lower_orders(curves.ar)[:-1]
        for age, (lower, ratio) in enumerate(starts):
            at = ages == age
            for lag, coefficient in enumerate(lower, start=1):
                out[at] -= coefficient * whole[rows[at] - lag]
            out[at] *= np.sqrt(ratio)
    return out
