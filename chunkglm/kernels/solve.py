"""From moments to solutions: AR(1) generalised least squares in closed form."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from chunkglm._types import FloatArray, IntArray
from chunkglm.kernels.factor import DesignFactor
from chunkglm.kernels.moments import Moments
from chunkglm.kernels.noise import AR, ar1_coefficient

# A voxel is constant when its standard deviation over time is below this share of its level:
# rounding of float64 leaves 1e-16, real signal on an offset of 1e10 still has 1e-10.
CONSTANT_VOXEL = 1e-13

# A voxel is explained when least squares leaves no more of its squares than rounding does. Its
# variance is then none of the noise's, and t would be infinite or anything.
NOTHING_LEFT = 1e-13

# voxel_status codes
ESTIMATED, OUTSIDE_MASK, CONSTANT, NOT_FINITE, EXPLAINED = 0, 1, 2, 3, 4


class Solution(NamedTuple):
    """Estimates of V voxels in the basis of the design.

    The inverse precision is ``diag(inverse) + strength * spike spike'`` (Sherman-Morrison).
    """

    b: FloatArray  # (r, V), coefficients in the units of the fit, but for
    offset: FloatArray  # (V,), a constant that is still to be added to the series
    inverse: FloatArray  # (r, V)
    spike: FloatArray  # (r, V)
    strength: FloatArray  # (V,)
    sigma2: FloatArray  # (V,), innovation variance in the units of the fit
    rho: FloatArray  # (V,)
    r_square: FloatArray  # (V,)
    status: IntArray  # (V,) int8


@dataclass(frozen=True, slots=True)
class Model:
    """Everything but the data: the factored design, the noise model, the scaling."""

    factor: DesignFactor
    noise: AR
    percent: bool  # signal as percent of each voxel's mean


def solve(moments: Moments, model: Model) -> Solution:
    """Fit every voxel from its moments.

    Parameters
    ----------
    moments : Moments
        Of a whole run, V voxels.
    model : Model

    Returns
    -------
    Solution
        In the units asked for (percent of the mean, or the data's); NaN where `status` is not 0.

    Notes
    -----
    With ``A(rho) = (1 + rho**2) I - rho L - rho**2 q q'``, L the eigenvalues of Q'S_1Q and q
    the last row of Q, ``A`` is Q'W'WQ for the filter ``W = I - rho * shift`` that leaves the first
    sample as it is.
    """
    # Samples that are not finite, or whose squares are not, make their own voxel NaN, in silence.
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        return _solve(moments, model)


def _solve(moments: Moments, model: Model) -> Solution:
    factor = model.factor
    status = voxel_status(moments, factor.n_scans)
    scaled, offset, total_squares = _in_model_units(moments, model)
    c0, squares = scaled.products[0], scaled.autocovariance[0]
    residual_squares = np.maximum(squares - np.einsum("rv,rv->v", c0, c0), 0.0)
    if model.noise.order == 0:
        inverse = np.ones_like(c0)
        solution = Solution(
            c0.copy(), offset, inverse, np.zeros_like(c0), np.zeros_like(squares),
            residual_squares, np.zeros_like(squares), squares, status,
        )  # fmt: skip
    else:
        solution = _solve_ar1(scaled, offset, residual_squares, model, status)
    r_square = 1.0 - residual_squares / total_squares
    sigma2 = solution.sigma2 / factor.dof
    explained = (status == ESTIMATED) & (residual_squares <= NOTHING_LEFT * squares)
    lost = status != ESTIMATED
    for values in (sigma2, solution.rho):
        values[lost | explained] = np.nan
    r_square[lost] = np.nan
    solution.b[:, lost] = np.nan
    status[explained] = EXPLAINED
    return solution._replace(sigma2=sigma2, r_square=r_square, status=status)


def _solve_ar1(
    moments: Moments,
    offset: FloatArray,
    residual_squares: FloatArray,
    model: Model,
    status: IntArray,
) -> Solution:
    """Solve for AR(1) noise; `sigma2` is still the sum of squares of the whitened residuals."""
    factor = model.factor
    c0, c1 = moments.products[:2]
    eigenvalues, last = factor.eigenvalues[:, None], factor.basis[-1][:, None]
    # r'S_1r with r = d - Q c0; S_1 counts each pair twice.
    lagged = moments.autocovariance[1] - np.einsum("rv,rv->v", c0, 2.0 * c1 - eigenvalues * c0)
    rho = ar1_coefficient(0.5 * lagged, residual_squares, factor.n_scans, model.noise.bins)
    rho2 = rho * rho
    tail = moments.tail[-1]
    diagonal = 1.0 + rho2
    right = diagonal * c0
    right -= rho * c1
    right -= last * (rho2 * tail)
    inverse = 1.0 / (diagonal - eigenvalues * rho)
    spike = last * inverse
    strength = rho2 / (1.0 - rho2 * (factor.basis[-1] @ spike))
    b = right * inverse
    b += spike * (strength * (factor.basis[-1] @ b))
    whitened_squares = (
        diagonal * moments.autocovariance[0]
        - rho * moments.autocovariance[1]
        - rho2 * tail**2
        - np.einsum("rv,rv->v", right, b)
    )
    whitened_squares = np.maximum(whitened_squares, 0.0)
    return Solution(b, offset, inverse, spike, strength, whitened_squares, rho, rho, status)


def voxel_status(moments: Moments, n_scans: int) -> IntArray:
    """Why a voxel cannot be estimated: `CONSTANT`, `NOT_FINITE`, or 0.

    Parameters
    ----------
    moments : Moments
    n_scans : int

    Returns
    -------
    (V,) int8 array
    """
    squares, total = moments.autocovariance[0], moments.total
    finite = np.isfinite(squares) & np.isfinite(total) & np.isfinite(moments.reference)
    with np.errstate(invalid="ignore", over="ignore"):
        spread = np.sqrt(np.maximum(squares - total**2 / n_scans, 0.0) / n_scans)
        constant = spread <= CONSTANT_VOXEL * np.abs(moments.reference + total / n_scans)
    status = np.where(constant, CONSTANT, ESTIMATED)
    return np.where(finite, status, NOT_FINITE).astype(np.int8)


def _in_model_units(moments: Moments, model: Model) -> tuple[Moments, FloatArray, FloatArray]:
    """Moments of the scaled series, the constant still missing from it, its squares about the mean.

    With the constant in the span of the design a shift of the data changes no residual, so the sums
    stay about the reference and the shift is added to the coefficients at the end. Without it, the
    shift goes into the sums.
    """
    factor = model.factor
    if model.percent:
        mean = np.maximum(moments.reference + moments.total / factor.n_scans, 1.0)
        slope = 100.0 / mean
        # 100 * (y / mean - 1) with y = reference + d; never the difference of two large numbers.
        offset: FloatArray = slope * (moments.reference - mean)
    else:
        slope = np.ones_like(moments.reference)
        offset = moments.reference
    scaled = moments
    if model.percent:
        scaled = Moments(
            moments.reference * slope,
            moments.products * slope,
            moments.autocovariance * slope**2,
            moments.total * slope,
            moments.head * slope,
            moments.tail * slope,
        )
    # Before any shift: about another value they would lose the digits of a large mean.
    total_squares = scaled.autocovariance[0] - scaled.total**2 / factor.n_scans
    if factor.constant_in_span:
        return scaled, offset, total_squares
    return _shift(scaled, offset, factor), np.zeros_like(offset), total_squares


def _shift(moments: Moments, offset: FloatArray, factor: DesignFactor) -> Moments:
    """Moments of ``d + offset``, the design not containing a constant."""
    n_scans, n_lags = factor.n_scans, moments.tail.shape[0]
    products, autocovariance = moments.products.copy(), moments.autocovariance.copy()
    shifted = factor.shifted_basis(n_lags)
    for lag in range(n_lags + 1):
        ends = moments.head[:lag].sum(axis=0) + moments.tail[n_lags - lag :].sum(axis=0)
        pairs = 2 * (n_scans - lag) if lag else n_scans
        sums = 2.0 * moments.total - ends if lag else moments.total
        products[lag] += np.multiply.outer(shifted[lag].sum(axis=1), offset)
        autocovariance[lag] += offset * (2.0 * sums + offset * pairs)
    return Moments(
        moments.reference,
        products,
        autocovariance,
        moments.total + n_scans * offset,
        moments.head + offset,
        moments.tail + offset,
    )
