"""What a fit takes out of the noise: expected autocovariances of residuals, and their inverse.

Residuals are less correlated over time than the noise was: the design has explained part of it, the
slow part above all. An AR coefficient estimated on them is too small, and the test too bold. With
``R = I - QQ'`` and noise of autocovariances ``v``,

    E[sum r_t r_{t+l}] = sum_k v_k tr[R S_l R S_k] / 2

is linear in ``v``, and the traces depend on the design alone. They are found once per design, for
every lag k, and inverted for the noise model: which coefficients would have left these residuals?
(The linear system over a few lags is that of Worsley et al., NeuroImage 15, 2002; here all lags
count, and the noise model says what they are.)
"""

from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

from chunkglm._types import AnyArray, BoolArray, FloatArray
from chunkglm.kernels.segments import Segments

# Reflection coefficients (for AR(1), the coefficient) are sought within this of 0; beyond it noise
# is hardly told from a random walk, and drifts have taken most of it.
LARGEST = 0.99

# Distance of coefficients in the table of AR(1): linear interpolation is off by 2e-6 at most.
STEP = 0.001

# The table ends where the ratio rises by less than this per unit of the coefficient (by 1 where the
# design takes nothing): nothing tells coefficients apart there, errors would grow a hundredfold.
LEAST_SLOPE = 0.01

# Lags over which noise of order 2 or more is followed; 0.9**128 is 1e-6.
FOLLOWED_LAGS = 128

# And of order 1, where all voxels share the work; 0.99**2000 is 2e-9.
TABLE_LAGS = 2000

# Newton's method stops where the ratios are met to TOLERANCE, after 3 to 5 steps. Ratios that no
# coefficients explain (in short runs) end at the edge, with steps that are halved in vain.
TOLERANCE, MOST_STEPS, SHORTEST_STEP = 1e-9, 20, 1e-3
DIFFERENCE, DAMPING = 1e-6, 1e-12  # of numerical slopes; added to their squares


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """Inverse of what the design does to autocorrelations, for AR noise of one order p."""

    response: FloatArray  # (p + 1, lags), from `lag_response`
    coefficients: FloatArray  # for p = 1, a table: AR coefficients, ascending, and
    ratios: FloatArray  # the ratios of residual autocovariances, lag 1 to lag 0, that they leave

    @property
    def order(self) -> int:
        """Order p of the noise model."""
        return int(self.response.shape[0]) - 1

    def __call__(self, autocovariance: FloatArray) -> FloatArray:
        """Autocorrelations of the noise that would leave these autocovariances in residuals.

        Parameters
        ----------
        autocovariance : (n + 1, V) array
            Of the residuals of least squares, n >= p lags, each the mean over its pairs of volumes;
            in any unit, for only their ratios count.

        Returns
        -------
        (p + 1, V) array
            Lag 0 is 1, and the rest those of a stationary process: of the nearest one, where ratios
            are beyond what any leaves. 0 at all other lags for voxels without residuals or not
            finite.
        """
        autocovariance = autocovariance[: self.order + 1]
        usable = np.isfinite(autocovariance).all(axis=0) & (autocovariance[0] > 0)
        found = autocovariance[:, usable]
        ratios = found[1:] / found[0]
        out = np.zeros(autocovariance.shape)
        out[0] = 1.0
        if self.order == 1:
            out[1:, usable] = np.interp(ratios, self.ratios, self.coefficients)
        else:
            out[1:, usable] = _invert(ratios, self.response)
        return out


def make_correction(basis: FloatArray, segments: Segments, order: int) -> Correction:
    """Prepare the correction for a design; once, for all voxels.

    Parameters
    ----------
    basis : (N, r) array
        Orthonormal basis of the design, over the kept volumes.
    segments : Segments
    order : int
        Of the noise model, 1 or more.

    Returns
    -------
    Correction
    """
    response = lag_response(basis, segments, order)
    if order > 1:
        return Correction(response[:, : FOLLOWED_LAGS + 1], np.empty(0), np.empty(0))
    response = response[:, :TABLE_LAGS]
    n_steps = round(LARGEST / STEP)
    coefficients = np.linspace(-LARGEST, LARGEST, 2 * n_steps + 1)
    # Horner's rule: a step over the whole table for each lag.
    lagged, squares = (
        np.polynomial.polynomial.polyval(coefficients, row) for row in response[::-1]
    )
    ratios = lagged / squares
    rises = np.diff(ratios) > LEAST_SLOPE * STEP
    first = n_steps - _leading(rises[:n_steps][::-1])
    last = n_steps + _leading(rises[n_steps:])
    return Correction(response, coefficients[first : last + 1], ratios[first : last + 1])


def _leading(rises: BoolArray) -> int:
    """How many are true before the first that is not."""
    return int(rises.size if rises.all() else np.argmin(rises))


def lag_response(basis: FloatArray, segments: Segments, n_lags: int) -> FloatArray:
    """Expected autocovariances of residuals, by lag of the noise.

    Parameters
    ----------
    basis : (N, r) array
        Orthonormal, over the kept volumes.
    segments : Segments
        Residuals are multiplied within a segment. The noise itself runs on through what is dropped.
    n_lags : int
        p, the largest lag of residuals.

    Returns
    -------
    (p + 1, T) array
        ``G`` with ``E[a_l] = sum_k G[l, k] v_k``, where ``a_l`` is the mean of the products
        ``r_t r_{t+l}`` and v the autocovariances of the noise. In O(r T log T): no (T, T) matrix.

    Notes
    -----
    ``tr[R S_l R S_k] = tr[S_l S_k] + tr[Z'S_kQ]`` with ``Z = Q(Q'S_lQ) - 2 S_lQ``; the latter are,
    for all k at once, correlations over time of the columns of Z with those of Q.
    """
    n_volumes = segments.n_volumes
    size = next_fast_len(2 * n_volumes, real=True)
    spectrum = _spectrum(basis, segments, size)
    out = np.zeros((n_lags + 1, n_volumes))
    for lag in range(n_lags + 1):
        n_pairs = segments.n_pairs(lag)
        if n_pairs == 0:
            continue
        shifted = segments.shift(basis, lag)
        z = basis @ (basis.T @ shifted) - 2.0 * shifted
        across = np.einsum("rf,rf->f", _spectrum(z, segments, size).conj(), spectrum)
        both_ways = irfft(across, size)
        out[lag] = both_ways[:n_volumes]
        out[lag, 1:] += both_ways[:-n_volumes:-1]
        if lag:  # S_l counts each pair twice, S_0 each volume once
            out[lag] *= 0.5
        out[lag, lag] += n_pairs
        out[lag] /= n_pairs
    return out


def _spectrum(x: FloatArray, segments: Segments, size: int) -> AnyArray:
    """Fourier transform of columns over time, zero where a volume is dropped; one row each."""
    rows = np.zeros((x.shape[1], segments.n_volumes))  # along rows: four times faster
    rows[:, segments.kept] = x.T
    return rfft(rows, size)


def _invert(ratios: FloatArray, response: FloatArray) -> FloatArray:
    """Newton's method on reflection coefficients, each voxel on its own until it is there."""
    order = ratios.shape[0]
    reflections = reflections_of(ratios)
    found, gap = _gap(reflections, ratios, response)
    length = np.ones(ratios.shape[1])
    for _ in range(MOST_STEPS):
        open_ = np.flatnonzero((np.abs(gap).max(axis=0) > TOLERANCE) & (length > SHORTEST_STEP))
        if not open_.size:
            break
        at, wanted = reflections[:, open_], ratios[:, open_]
        step = _newton_step(at, gap[:, open_], wanted, response)
        trial = np.clip(at + length[open_] * step, -LARGEST, LARGEST)
        trial_found, trial_gap = _gap(trial, wanted, response)
        closer = (trial_gap**2).sum(axis=0) < (gap[:, open_] ** 2).sum(axis=0)
        better = open_[closer]
        reflections[:, better], gap[:, better] = trial[:, closer], trial_gap[:, closer]
        found[:, better] = trial_found[:, closer]
        length[open_] = np.where(closer, 1.0, 0.5 * length[open_])
    return found[:order]


def _newton_step(
    reflections: FloatArray, gap: FloatArray, ratios: FloatArray, response: FloatArray
) -> FloatArray:
    """Step at which the gap vanishes to first order, (p, V)."""
    slopes = np.empty((reflections.shape[1], reflections.shape[0], reflections.shape[0]))
    for j in range(reflections.shape[0]):
        moved = reflections.copy()
        moved[j] += DIFFERENCE
        slopes[:, :, j] = ((_gap(moved, ratios, response)[1] - gap) / DIFFERENCE).T
    # Damped a little: of designs that leave next to nothing no slope may be left either.
    squares = np.swapaxes(slopes, 1, 2) @ slopes + DAMPING * np.eye(len(reflections))
    right = np.swapaxes(slopes, 1, 2) @ gap.T[:, :, None]
    return np.asarray(-np.linalg.solve(squares, right)[:, :, 0].T)


def _gap(
    reflections: FloatArray, ratios: FloatArray, response: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Autocorrelations (p, V) of noise, and how far its residuals' ratios are from those wanted."""
    v = autocorrelations_of(reflections, response.shape[1])
    expected = response @ v
    return v[1 : reflections.shape[0] + 1], expected[1:] / expected[0] - ratios


def reflections_of(autocorrelations: FloatArray) -> FloatArray:
    """Reflection coefficients (partial autocorrelations), by Levinson's recursion.

    Parameters
    ----------
    autocorrelations : (p, V) array
        At lags 1 to p.

    Returns
    -------
    (p, V) array
        Kept within `LARGEST` of 0, where the process is stationary.
    """
    out = np.empty_like(autocorrelations)
    phi = autocorrelations[:0]
    left = np.ones(autocorrelations.shape[1])
    for m, wanted in enumerate(autocorrelations):
        explained = (phi * autocorrelations[:m][::-1]).sum(axis=0)
        out[m] = np.clip((wanted - explained) / left, -LARGEST, LARGEST)
        phi = _one_order_more(phi, out[m])
        left *= 1.0 - out[m] ** 2
    return out


def autocorrelations_of(reflections: FloatArray, n_lags: int) -> FloatArray:
    """Autocorrelations of an AR process at lags 0 to ``n_lags - 1``.

    Parameters
    ----------
    reflections : (p, V) array
    n_lags : int

    Returns
    -------
    (n_lags, V) array
    """
    order = reflections.shape[0]
    out = np.empty((max(n_lags, order + 1), reflections.shape[1]))
    out[0] = 1.0
    phi = reflections[:0]
    left = np.ones(reflections.shape[1])
    for m, reflection in enumerate(reflections):
        out[m + 1] = (phi * out[1 : m + 1][::-1]).sum(axis=0) + reflection * left
        phi = _one_order_more(phi, reflection)
        left *= 1.0 - reflection**2
    for k in range(order + 1, n_lags):
        np.multiply(phi[0], out[k - 1], out=out[k])
        for j in range(1, order):
            out[k] += phi[j] * out[k - 1 - j]
    return out[:n_lags]


def _one_order_more(phi: FloatArray, reflection: FloatArray) -> FloatArray:
    """AR coefficients of order m + 1 from those of order m."""
    return np.vstack([phi - reflection * phi[::-1], reflection[None]])
