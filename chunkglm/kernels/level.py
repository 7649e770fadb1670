"""The level of every voxel: its mean, whether it varies, and what turns it into the fit's units."""

import numpy as np

from chunkglm._types import FloatArray, IntArray
from chunkglm.kernels.factor import DesignFactor
from chunkglm.kernels.moments import Moments

# A voxel is constant when its standard deviation over time is below this share of its level:
# rounding of float64 leaves 1e-16, real signal on an offset of 1e10 still has 1e-10.
CONSTANT_VOXEL = 1e-13

# voxel_status codes
ESTIMATED, OUTSIDE_MASK, CONSTANT, NOT_FINITE, EXPLAINED = 0, 1, 2, 3, 4


def squares_of(moments: Moments) -> FloatArray:
    """``d'd``, (V,)."""
    c = moments.products[0]
    return np.asarray(moments.autocovariance[0] + np.einsum("rv,rv->v", c, c))


def sum_of(moments: Moments, factor: DesignFactor) -> FloatArray:
    """``1'd``, (V,)."""
    return np.asarray(moments.total + factor.constant @ moments.products[0])


def status_of(
    reference: FloatArray, squares: FloatArray, total: FloatArray, n_kept: int
) -> IntArray:
    """Why a voxel cannot be estimated: `CONSTANT`, `NOT_FINITE`, or 0.

    Parameters
    ----------
    reference, squares, total : (V,) arrays
        `Moments.reference`, `squares_of` and `sum_of`.
    n_kept : int
        Volumes that count.

    Returns
    -------
    (V,) int8 array
    """
    finite = np.isfinite(squares) & np.isfinite(total) & np.isfinite(reference)
    spread = _spread(squares, total, n_kept)
    constant = spread <= CONSTANT_VOXEL * np.abs(reference + total / n_kept)
    status = np.where(constant, CONSTANT, ESTIMATED)
    return np.where(finite, status, NOT_FINITE).astype(np.int8)


def _spread(squares: FloatArray, total: FloatArray, n_kept: int) -> FloatArray:
    """Standard deviation over time: squares about the mean, divided by the number of volumes."""
    return np.sqrt(np.maximum(squares - total**2 / n_kept, 0.0) / n_kept)


def units(
    reference: FloatArray, total: FloatArray, n_kept: int, percent: bool
) -> tuple[FloatArray, FloatArray]:
    """What turns the series d about the reference into the fit's: ``slope * (d + offset)``.

    Parameters
    ----------
    reference, total : (V,) arrays
        `Moments.reference` and `sum_of`.
    n_kept : int
        Volumes that count.
    percent : bool
        Whether the fit's are percent of each voxel's mean.

    Returns
    -------
    slope, offset : (V,) arrays
    """
    if not percent:
        return np.ones_like(reference), reference
    mean = np.maximum(reference + total / n_kept, 1.0)
    # 100 * (y / mean - 1) with y = reference + d; never the difference of two large numbers.
    return 100.0 / mean, reference - mean


def units_of(
    moments: Moments, factor: DesignFactor, percent: bool
) -> tuple[FloatArray, FloatArray]:
    """Slope and offset, see `units`, of moments of a whole run."""
    return units(moments.reference, sum_of(moments, factor), factor.n_kept, percent)


def signal_maps(
    moments: Moments, factor: DesignFactor, autocorrelation: FloatArray | None = None
) -> dict[str, FloatArray]:
    """Level of every voxel, and how steady it is.

    Parameters
    ----------
    moments : Moments
        Of a whole run, V voxels.
    factor : DesignFactor
    autocorrelation : optional
        Not used: the signal is the same under every noise model.

    Returns
    -------
    dict of arrays
        ``mean`` over time and ``tsnr``, the mean over the standard deviation, (V,); NaN in voxels
        that are not finite, ``tsnr`` also in those that are constant.
    """
    n_kept = factor.n_kept
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        squares, total = squares_of(moments), sum_of(moments, factor)
        mean = moments.reference + total / n_kept
        estimated = status_of(moments.reference, squares, total, n_kept) == ESTIMATED
        tsnr = np.where(estimated, mean / _spread(squares, total, n_kept), np.nan)
    return {"mean": np.where(np.isfinite(mean), mean, np.nan), "tsnr": tsnr}
