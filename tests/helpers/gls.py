"""Generalised least squares the slow way: one voxel at a time, with dense (T, T) matrices."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Truth(NamedTuple):
    """What the brute force finds for V voxels."""

    effect: Array  # (q, V)
    covariance: Array  # (q, q, V)
    fitted: Array  # (T, V), X beta
    sigma2: Array  # (V,)
    rho: Array  # (V,)
    r_square: Array  # (V,), of ordinary least squares
    dof: int


def whitener(rho: float, n_scans: int) -> Array:
    """W = I - rho * shift, the first sample as it is."""
    return np.eye(n_scans) - rho * np.eye(n_scans, k=-1)


def scaled(Y: Array, percent: bool) -> Array:
    """Percent of the mean over time, as nilearn's mean_scaling; else as it is."""
    if not percent:
        return Y
    mean = np.maximum(Y.mean(axis=0), 1.0)
    return 100.0 * (Y - mean) / mean


def rho_of(residuals: Array, bins: int | None = None) -> float:
    """Yule-Walker on least-squares residuals r: [sum r_t r_t+1 / (T - 1)] / [sum r_t**2 / T]."""
    n_scans = residuals.size
    rho = residuals[1:] @ residuals[:-1] / (n_scans - 1) / (residuals @ residuals / n_scans)
    return float(rho if bins is None else np.trunc(rho * bins) / bins)


def projection(X: Array) -> tuple[Array, int]:
    """Pseudo-inverse and rank, from columns of unit length and singular values above 1e-11."""
    largest = np.abs(X).max(axis=0)
    length = largest * np.linalg.norm(X / largest, axis=0)
    u, s, vt = np.linalg.svd(X / length, full_matrices=False)
    rank = int((s > 1e-11 * s[0]).sum())
    return (vt[:rank].T / s[:rank]) @ u[:, :rank].T / length[:, None], rank


def brute_force(
    Y: Array,
    X: Array,
    C: Array,
    *,
    order: int = 1,
    bins: int | None = None,
    percent: bool = False,
    rho_error: float = 0.0,
) -> Truth:
    """Fit every voxel by itself.

    Parameters
    ----------
    Y : (T, V) array
    X : (T, k) array
    C : (q, k) array
        Contrast, estimable.
    order : {0, 1}
    bins, percent
        As the noise model and the scaling have them.
    rho_error : float
        Added to every coefficient, to show that a comparison would notice.

    Returns
    -------
    Truth
    """
    Y = scaled(np.asarray(Y, dtype=np.float64), percent)
    n_scans, n_voxels = Y.shape
    q = C.shape[0]
    ols, rank = projection(X)
    dof = n_scans - rank
    effect, covariance = np.empty((q, n_voxels)), np.empty((q, q, n_voxels))
    fitted = np.empty((n_scans, n_voxels))
    sigma2, rhos, r_square = np.empty((3, n_voxels))
    for v, y in enumerate(Y.T):
        residuals = y - X @ (ols @ y)
        # Once more on the residuals: the first fit leaves the rounding of a large mean in them.
        residuals -= X @ (ols @ residuals)
        rhos[v] = rho_of(residuals, bins) + rho_error if order else 0.0
        r_square[v] = 1.0 - residuals @ residuals / ((y - y.mean()) @ (y - y.mean()))
        W = whitener(rhos[v], n_scans)
        inverse, _ = projection(W @ X)
        beta = inverse @ (W @ y)
        beta += inverse @ (W @ (y - X @ beta))
        whitened = W @ (y - X @ beta)
        sigma2[v] = whitened @ whitened / dof
        half = C @ inverse
        effect[:, v], covariance[:, :, v] = C @ beta, sigma2[v] * (half @ half.T)
        fitted[:, v] = X @ beta
    return Truth(effect, covariance, fitted, sigma2, rhos, r_square, dof)


def in_standard_errors(found: Array, expected: Array, variance: Array) -> float:
    """Largest difference over the standard error."""
    return float(np.max(np.abs(found - expected) / np.sqrt(variance), initial=0.0))


def relative(found: Array, expected: Array) -> float:
    """Largest difference over the value expected."""
    return float(np.max(np.abs(found - expected) / np.abs(expected), initial=0.0))


def near_bin_edge(rho: Array, bins: int, margin: float = 1e-9) -> NDArray[np.bool_]:
    """Voxels whose exact coefficient rounding could move over the edge of a bin.

    Zero is no edge: coefficients on either side of it are truncated to it.
    """
    nearest = np.rint(rho * bins)
    return (np.abs(rho * bins - nearest) < margin * bins) & (nearest != 0)
