"""Generalised least squares over segments with dense (N, N) whitening matrices, voxel by voxel."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from helpers.gls import projection

Array = NDArray[np.float64]


class Truth(NamedTuple):
    """What the brute force finds for V voxels."""

    effect: Array  # (q, V)
    covariance: Array  # (q, q, V)
    beta: Array  # (k, V)
    sigma2: Array  # (V,)


def segments_of(keep: NDArray[np.bool_]) -> list[list[int]]:
    """Kept volumes of each maximal run of consecutive ones."""
    found: list[list[int]] = []
    for t in np.flatnonzero(keep).tolist():
        if found and found[-1][-1] == t - 1:
            found[-1].append(t)
        else:
            found.append([t])
    return found


def autocovariances(phi: Array, n: int) -> Array:
    """Of the stationary AR(p) process with innovations of variance 1, lags 0..n-1.

    Solves ``g_k - sum_i phi_i g_|k-i| = [k = 0]`` for k = 0..p, and goes on by the recursion.
    """
    p = phi.size
    system = np.eye(p + 1)
    for k in range(p + 1):
        for i in range(1, p + 1):
            system[k, abs(k - i)] -= phi[i - 1]
    g = list(np.linalg.solve(system, np.eye(p + 1)[0]))
    while len(g) < n:
        g.append(sum(phi[i] * g[-1 - i] for i in range(p)))
    return np.array(g[:n])


def segment_root(phi: Array, length: int, *, stationary: bool) -> Array:
    """What whitens consecutive samples of AR(p), (L, L): precision is ``root' root``."""
    if stationary:
        g = autocovariances(phi, length)
        lags = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
        # By way of the covariance's factor: its inverse would lose twice as many digits.
        return solve_triangular(np.linalg.cholesky(g[lags]), np.eye(length), lower=True)
    W = np.eye(length)
    for i, coefficient in enumerate(phi, 1):
        W -= coefficient * np.eye(length, k=-i)
    return W


def whitener(phi: Array, keep: NDArray[np.bool_], *, stationary: bool) -> Array:
    """What whitens the kept samples, (N, N): segment by segment, nothing between them."""
    lengths = [len(s) for s in segments_of(keep)]
    out = np.zeros((sum(lengths), sum(lengths)))
    first = 0
    for n in lengths:
        part = slice(first, first + n)
        out[part, part] = segment_root(phi, n, stationary=stationary)
        first += n
    return out


def residual_autocovariances(y: Array, X: Array, keep: NDArray[np.bool_], n_lags: int) -> Array:
    """Of least-squares residuals, each over its number of pairs within segments."""
    kept = X[keep]
    inverse, _ = projection(kept)
    r = np.full(keep.size, np.nan)
    r[keep] = y[keep] - kept @ (inverse @ y[keep])
    r[keep] -= kept @ (inverse @ r[keep])
    return lagged_means(r, keep, n_lags)


def lagged_means(r: Array, keep: NDArray[np.bool_], n_lags: int) -> Array:
    """Means of products of samples of the same segment, by lag; loops over all pairs."""
    out = []
    for lag in range(n_lags + 1):
        pairs = [r[a] * r[a + lag] for s in segments_of(keep) for a in s if a + lag in s]
        out.append(sum(pairs) / len(pairs))
    return np.array(out)


def yule_walker(autocovariance: Array) -> Array:
    """Coefficients by the p x p system, whatever process they belong to."""
    p = autocovariance.size - 1
    lags = np.abs(np.subtract.outer(np.arange(p), np.arange(p)))
    return np.linalg.solve(autocovariance[lags], autocovariance[1:])


def partials(phi: Array) -> Array:
    """Partial autocorrelations of a process with these coefficients."""
    out = []
    while phi.size:
        last = phi[-1]
        out.append(last)
        phi = (phi[:-1] + last * phi[:-1][::-1]) / (1 - last**2)
    return np.array(out[::-1])


def dense_gls(
    Y: Array, X: Array, C: Array, phi: Array, keep: NDArray[np.bool_], *, stationary: bool
) -> Truth:
    """Fit every voxel by itself, given its coefficients.

    Parameters
    ----------
    Y : (T, V) array
    X : (T, k) array
    C : (q, k) array
    phi : (p, V) array
    keep : (T,) bool array
    stationary : bool

    Returns
    -------
    Truth
    """
    Y, X = Y[keep], X[keep]
    q, n_voxels, k = C.shape[0], Y.shape[1], X.shape[1]
    out = Truth(
        np.empty((q, n_voxels)), np.empty((q, q, n_voxels)), np.empty((k, n_voxels)),
        np.empty(n_voxels),
    )  # fmt: skip
    for v, y in enumerate(Y.T):
        root = whitener(phi[:, v], keep, stationary=stationary)
        inverse, rank = projection(root @ X)
        beta = inverse @ (root @ y)
        beta += inverse @ (root @ (y - X @ beta))
        left = root @ (y - X @ beta)
        out.sigma2[v] = left @ left / (len(y) - rank)
        half = C @ inverse
        out.effect[:, v], out.beta[:, v] = C @ beta, beta
        out.covariance[:, :, v] = out.sigma2[v] * half @ half.T
    return out
