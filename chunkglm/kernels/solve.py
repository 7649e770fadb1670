"""From moments to solutions: generalised least squares of every voxel under AR(p) noise."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from chunkglm._types import FloatArray, IntArray
from chunkglm.kernels.bias import make_correction
from chunkglm.kernels.factor import DesignFactor
from chunkglm.kernels.level import (
    ESTIMATED,
    EXPLAINED,
    NOT_FINITE,
    squares_of,
    status_of,
    sum_of,
    units,
    units_of,
)
from chunkglm.kernels.moments import Moments, shifted_by
from chunkglm.kernels.noise import AR, Correction, ar_coefficients
from chunkglm.kernels.precision import (
    DiagonalPlusRankOne,
    Inverse,
    NormalTerms,
    cholesky,
    normal_equations,
    normal_terms,
)

# A voxel is explained when least squares leaves no more of its squares than rounding does. Its
# variance is then none of the noise's, and t would be infinite or anything.
NOTHING_LEFT = 1e-13


class Solution(NamedTuple):
    """Estimates of V voxels in the basis of the design, in the units of the fit."""

    b: FloatArray  # (r, V), coefficients, but for
    offset: FloatArray  # (V,), a constant that is still to be added to the series
    inverse: Inverse  # of the normal matrix
    sigma2: FloatArray  # (V,), innovation variance
    phi: FloatArray  # (p, V), autoregressive coefficients
    r_square: FloatArray  # (V,)
    status: IntArray  # (V,) int8

    def effect_of(self, weights: FloatArray, of_constant: FloatArray) -> FloatArray:
        """Contrasts of the coefficients.

        Parameters
        ----------
        weights : (..., q, r) array
            In the basis, from `DesignFactor.contrast_in_basis`; one contrast, or several.
        of_constant : (..., q) array
            What the contrasts say of a series of ones, from `estimate.constant_under`.

        Returns
        -------
        (..., q, V) array
        """
        *leading, rank = weights.shape
        effect = (weights.reshape(-1, rank) @ self.b).reshape(*leading, -1)
        if of_constant.any():
            effect += np.multiply.outer(of_constant, self.offset)
        return effect

    def covariance_of(self, weights: FloatArray) -> FloatArray:
        """Covariance of contrasts, for t (its diagonal) and F alike.

        Parameters
        ----------
        weights : (..., q, r) array
            As for `effect_of`.

        Returns
        -------
        (..., q, q, V) array
            Between the rows of each contrast.
        """
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            found = self.inverse.covariance_of(weights)
            found *= self.sigma2
            return found


@dataclass(frozen=True, slots=True)
class Model:
    """Everything but the data: the factored design, the noise model, the scaling."""

    factor: DesignFactor
    noise: AR
    percent: bool  # signal as percent of each voxel's mean
    # What residuals' autocovariances say of the noise's; by default what the noise model asks for.
    correction: Correction | None = None
    terms: NormalTerms = field(init=False, repr=False)

    @property
    def closed_form(self) -> bool:
        """Whether the normal matrix is diagonal, or is but for one rank."""
        noise = self.noise
        of_one_rank = noise.order == 1 and noise.initial == "conditional"
        return noise.order == 0 or (of_one_rank and self.factor.segments.n_segments == 1)

    def __post_init__(self) -> None:
        """Gather what the design alone decides."""
        object.__setattr__(self, "terms", normal_terms(self.factor, self.noise))
        if self.noise.corrected and self.correction is None:
            correction = make_correction(self.factor.basis, self.factor.segments, self.noise.order)
            object.__setattr__(self, "correction", correction)


def solve(moments: Moments, model: Model, autocorrelation: FloatArray | None = None) -> Solution:
    """Fit every voxel from its moments.

    Parameters
    ----------
    moments : Moments
        Of a whole run, V voxels; of as many lags as the noise's order, or more.
    model : Model
    autocorrelation : (n + 1, V) array, optional
        Taken in place of each voxel's own `residual_autocovariance`, averages over neighbours for
        example; n >= p lags, in any unit. There is then one iteration.

    Returns
    -------
    Solution
        In the units asked for (percent of the mean, or the data's); NaN where `status` is not 0.
    """
    # Samples that are not finite, or whose squares are not, make their own voxel NaN, in silence.
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        return _solve(moments, model, autocorrelation)


def residual_autocovariance(moments: Moments, model: Model) -> FloatArray:
    """Autocovariances of the least-squares residuals, for as many lags as there are moments of.

    Parameters
    ----------
    moments : Moments
        Of a whole run, V voxels.
    model : Model

    Returns
    -------
    (n + 1, V) array
        ``sum r_t r_{t+d} / pairs_d`` over the pairs of volumes of the same segment, in the data's
        units squared.
    """
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        _, offset = units_of(moments, model.factor, model.percent)
        return _autocovariance(_about_offset(moments, offset, model), model, None)


def own_autocorrelation(moments: Moments, model: Model) -> FloatArray:
    """Autocorrelations of the least-squares residuals, as far as the noise model looks.

    Parameters
    ----------
    moments : Moments
        Of a whole run, V voxels.
    model : Model

    Returns
    -------
    (p + 1, V) array
        Lag 0 is 1; NaN in voxels that cannot be estimated.
    """
    n_kept = model.factor.n_kept
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        squares, total = squares_of(moments), sum_of(moments, model.factor)
        lost = status_of(moments.reference, squares, total, n_kept) != ESTIMATED
        _, offset = units(moments.reference, total, n_kept, model.percent)
        moments = _about_offset(moments, offset, model)
        found = _autocovariance(moments, model, None)[: model.noise.order + 1]
        lost |= moments.autocovariance[0] <= NOTHING_LEFT * squares_of(moments)
        found /= found[0].copy()
    found[:, lost | ~np.isfinite(found).all(axis=0)] = np.nan
    return found


def _solve(moments: Moments, model: Model, autocorrelation: FloatArray | None) -> Solution:
    """Solve in the data's units about the reference; only results are put into the fit's."""
    factor, noise = model.factor, model.noise
    squares, total = squares_of(moments), sum_of(moments, factor)
    status = status_of(moments.reference, squares, total, factor.n_kept)
    # Before any shift: about another value they would lose the digits of a large mean.
    total_squares = squares - total**2 / factor.n_kept
    slope, offset = units(moments.reference, total, factor.n_kept, model.percent)
    if not factor.constant_in_span:
        moments = _about_offset(moments, offset, model)
        squares = squares_of(moments)
    residual_squares = np.maximum(moments.autocovariance[0], 0.0)
    b: FloatArray = moments.products[0].copy()
    if noise.order == 0:
        left = residual_squares.copy()
        inverse: Inverse = DiagonalPlusRankOne(
            np.ones_like(b), np.zeros_like(b), np.zeros_like(squares)
        )
        phi: FloatArray = np.empty((0, squares.size))
    else:
        found = autocorrelation
        if found is None:
            found = _autocovariance(moments, model, None)
        phi = ar_coefficients(found, noise, model.correction)
        more, inverse, left = _generalised(moments, phi, model)
        for _ in range(noise.iterations - 1 if autocorrelation is None else 0):
            phi = ar_coefficients(_autocovariance(moments, model, more), noise, model.correction)
            more, inverse, left = _generalised(moments, phi, model)
        b += more
    b *= slope
    sigma2 = left * (slope * slope / factor.dof)
    if not factor.constant_in_span:
        offset = np.zeros_like(offset)
    r_square = 1.0 - residual_squares / total_squares
    explained = (status == ESTIMATED) & (residual_squares <= NOTHING_LEFT * squares)
    # No estimate is handed out that is none, whatever the sums were.
    status[(status == ESTIMATED) & ~np.isfinite(sigma2)] = NOT_FINITE
    lost = status != ESTIMATED
    for values in (sigma2, phi):
        values[..., lost | explained] = np.nan
    r_square[lost] = np.nan
    b[:, lost] = np.nan
    status[explained] = EXPLAINED
    return Solution(b, slope * offset, inverse, sigma2, phi, r_square, status)


def _generalised(
    moments: Moments, phi: FloatArray, model: Model
) -> tuple[FloatArray, Inverse, FloatArray]:
    """What phi adds to the coefficients of least squares; inverse, whitened residual squares."""
    if model.closed_form:
        return _closed_form(moments, phi[0], model.factor)
    normal = normal_equations(moments, phi, model.terms)
    inverse = cholesky(normal.matrix)
    b = inverse.solve(normal.right)
    left = normal.squares - np.einsum("rv,rv->v", normal.right, b)
    return b, inverse, np.maximum(left, 0.0)


def _closed_form(
    moments: Moments, rho: FloatArray, factor: DesignFactor
) -> tuple[FloatArray, Inverse, FloatArray]:
    """Solve for AR(1) noise in one segment, in a few operations a regressor.

    With ``A(rho) = (1 + rho**2) I - rho L - rho**2 q q'``, L the eigenvalues of Q'S_1Q and q
    the last row of Q, ``A`` is Q'W'WQ for the filter ``W = I - rho * shift`` that leaves the first
    sample as it is.
    """
    eigenvalues, last = factor.eigenvalues[:, None], factor.basis[-1][:, None]
    rho2 = rho * rho
    tail = moments.tail[-1]
    diagonal = 1.0 + rho2
    right = -rho * moments.products[1]
    right -= last * (rho2 * tail)
    inverse = 1.0 / (diagonal - eigenvalues * rho)
    spike = last * inverse
    strength = rho2 / (1.0 - rho2 * (factor.basis[-1] @ spike))
    b = right * inverse
    b += spike * (strength * (factor.basis[-1] @ b))
    left = (
        diagonal * moments.autocovariance[0]
        - rho * moments.autocovariance[1]
        - rho2 * tail**2
        - np.einsum("rv,rv->v", right, b)
    )
    return b, DiagonalPlusRankOne(inverse, spike, strength), np.maximum(left, 0.0)


def _autocovariance(moments: Moments, model: Model, more: FloatArray | None) -> FloatArray:
    """Autocovariances of ``r - Q more``, each divided by its number of pairs."""
    factor, order = model.factor, model.noise.order
    out = moments.autocovariance.copy()
    for lag in range(len(out)):
        if more is not None:
            # (r - Qb)'S_d(r - Qb) = r'S_dr - b'(2 (S_dQ)'r - Q'S_dQ b)
            if lag == 0:
                explained = -more
            elif lag == 1:
                explained = 2.0 * moments.products[1] - factor.eigenvalues[:, None] * more
            else:
                matrix = model.terms.lagged[lag] if lag <= order else factor.lagged(lag)
                explained = 2.0 * moments.products[lag] - matrix @ more
            out[lag] -= np.einsum("rv,rv->v", more, explained)
        # S_d counts each pair twice.
        out[lag] /= factor.segments.n_pairs(lag) * (2 if lag else 1)
    return out


def _about_offset(moments: Moments, offset: FloatArray, model: Model) -> Moments:
    """Moments of the series that the design is fitted to.

    With the constant in the span of the design a shift of the data changes no residual, so the sums
    stay about the reference and the shift is added to the coefficients at the end. Without it, the
    shift goes into the sums.
    """
    if model.factor.constant_in_span:
        return moments
    return shifted_by(moments, offset, model.factor.shifted_basis(moments.n_lags))
