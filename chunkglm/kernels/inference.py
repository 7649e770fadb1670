"""From statistics to p values and z scores, both tails at full precision."""

import numpy as np
from scipy.special import fdtr, fdtrc, ndtri, stdtr

from chunkglm._types import BoolArray, FloatArray

# Clips that keep z finite: |z| ends at 37.05.
SMALLEST_P = 1e-300
LARGEST_P = 1.0 - 1e-16

# A variance below this cannot be inverted and summed over runs within float64.
SMALLEST_VARIANCE = 1e-300

# A correlation matrix whose smallest eigenvalue is below this is singular but for rounding.
SINGULAR = 1e-12


def t_to_p_and_z(t: FloatArray, dof: FloatArray | float) -> tuple[FloatArray, FloatArray]:
    """One-sided upper-tail p, and z with the same tail probability.

    Parameters
    ----------
    t : (...,) array
    dof : (...,) array or float
        Residual degrees of freedom.

    Returns
    -------
    p, z : (...,) arrays
    """
    tail = stdtr(dof, -np.abs(t))
    z = np.copysign(-ndtri(np.clip(tail, SMALLEST_P, 0.5)), t)
    p = np.where(t >= 0, tail, 1.0 - tail)
    return _clipped(p), z + 0.0  # + 0.0 turns -0.0 into 0.0


def f_to_p_and_z(f: FloatArray, q: int, dof: FloatArray | float) -> tuple[FloatArray, FloatArray]:
    """Upper-tail p of F, and z with the same tail probability.

    Parameters
    ----------
    f : (...,) array
    q : int
        Rows of the contrast.
    dof : (...,) array or float

    Returns
    -------
    p, z : (...,) arrays
    """
    upper = fdtrc(float(q), dof, f)
    lower = fdtr(float(q), dof, f)
    above = -ndtri(np.clip(upper, SMALLEST_P, LARGEST_P))
    below = ndtri(np.clip(lower, SMALLEST_P, LARGEST_P))
    return _clipped(upper), np.where(above >= 0, above, below)


def _clipped(p: FloatArray) -> FloatArray:
    """P values within the range in which z is finite; NaN stays NaN."""
    return np.clip(p, SMALLEST_P, LARGEST_P)


def positive_definite(covariance: FloatArray) -> BoolArray:
    """Whether the covariance of a voxel can be inverted with digits to spare.

    Parameters
    ----------
    covariance : (..., q, q, V) array

    Returns
    -------
    (..., V) bool array
        False where it is not finite, singular or indefinite, or too small to be inverted.
    """
    q = covariance.shape[-2]
    diagonal = np.einsum("...qqv->...qv", covariance)
    good = np.isfinite(covariance).all(axis=(-3, -2)) & (diagonal > SMALLEST_VARIANCE).all(axis=-2)
    if q > 1:
        scale = np.sqrt(np.where(good[..., None, :], diagonal, 1.0))
        correlation = covariance / (scale[..., :, None, :] * scale[..., None, :, :])
        identity = np.eye(q)[:, :, None]
        correlation = np.where(good[..., None, None, :], correlation, identity)
        smallest = np.linalg.eigvalsh(np.moveaxis(correlation, -1, -3))[..., 0]
        good &= smallest > SINGULAR
    return np.asarray(good)


def f_statistic(effect: FloatArray, covariance: FloatArray) -> FloatArray:
    """``e' V^-1 e / q`` for every voxel.

    Parameters
    ----------
    effect : (q, V) array
    covariance : (q, q, V) array

    Returns
    -------
    (V,) array
        NaN where the covariance cannot be inverted, see `positive_definite`.
    """
    q, n_voxels = effect.shape
    out = np.full(n_voxels, np.nan)
    diagonal = np.einsum("qqv->qv", covariance)
    good = positive_definite(covariance)
    e = effect[:, good]
    # Unit diagonal first, so that rows in unlike units do not spoil the solve.
    scale = np.sqrt(diagonal[:, good])
    v = np.moveaxis(covariance[:, :, good] / (scale[:, None] * scale[None]), -1, 0)
    e = (e / scale).T[..., None]
    out[good] = (e * np.linalg.solve(v, e)).sum(axis=(1, 2)) / q
    return out
