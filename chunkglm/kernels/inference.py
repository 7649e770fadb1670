"""From statistics to p values and z scores, both tails at full precision."""

import numpy as np
from scipy.special import fdtr, fdtrc, ndtri, stdtr

from chunkglm._types import BoolArray, FloatArray
from chunkglm.kernels.tails import LARGEST_P, SMALLEST_DOF, SMALLEST_P, many_t_to_p_and_z

# A variance below this cannot be inverted and summed over runs within float64.
SMALLEST_VARIANCE = 1e-300

# A correlation matrix whose smallest eigenvalue is below this is singular but for rounding.
SINGULAR = 1e-12

# As many of the same degrees of freedom are worth a polynomial.
MANY_VOXELS = 1000


def t_to_p_and_z(
    t: FloatArray, dof: FloatArray | float, out: tuple[FloatArray, FloatArray] | None = None
) -> tuple[FloatArray, FloatArray]:
    """One-sided upper-tail p, and z with the same tail probability.

    Parameters
    ----------
    t : (...,) array
    dof : (...,) array or float
        Residual degrees of freedom.
    out : two (...,) arrays, optional
        C-contiguous; overwritten and returned.

    Returns
    -------
    p, z : (...,) arrays
    """
    t = np.asarray(t, dtype=np.float64)
    p, z = (np.empty(t.shape), np.empty(t.shape)) if out is None else out
    one = _only_value(dof)
    if t.size < MANY_VOXELS or (one is not None and one < SMALLEST_DOF):
        p[...], z[...] = _each_t_to_p_and_z(t, dof)
    elif one is not None:
        many_t_to_p_and_z(t.reshape(-1), one, p.reshape(-1), z.reshape(-1))
    else:
        # Of maps: NaN outside the mask, and the few degrees of freedom that runs add up to.
        dofs = np.broadcast_to(np.asarray(dof, dtype=np.float64), t.shape)
        known = ~(np.isnan(t) | np.isnan(dofs))
        one = _only_value(dofs[known])
        if one is not None and one >= SMALLEST_DOF and np.count_nonzero(known) >= MANY_VOXELS:
            many_t_to_p_and_z(t.reshape(-1), one, p.reshape(-1), z.reshape(-1))
            p[~known], z[~known] = np.nan, np.nan
            return p, z
        p.fill(np.nan), z.fill(np.nan)
        for one in _common_values(dofs[known]):
            part = known & (dofs == one)
            p[part], z[part] = t_to_p_and_z(t[part], one)
            known &= ~part
        p[known], z[known] = _each_t_to_p_and_z(t[known], dofs[known])
    return p, z


def _only_value(dof: FloatArray | float) -> float | None:
    """The one number of degrees of freedom, if all have the same."""
    values = np.asarray(dof)
    least, most = (values.min(), values.max()) if values.size else (0.0, 1.0)
    return float(least) if least == most else None


def _common_values(values: FloatArray) -> list[float]:
    """Numbers that are there at least `MANY_VOXELS` times."""
    found, counts = np.unique(values, return_counts=True)
    return [float(value) for value in found[counts >= MANY_VOXELS]]


def _each_t_to_p_and_z(t: FloatArray, dof: FloatArray | float) -> tuple[FloatArray, FloatArray]:
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
    if q == 1:
        variance = covariance[..., 0, 0, :]
        return np.asarray(np.isfinite(variance) & (variance > SMALLEST_VARIANCE))
    diagonal = np.einsum("...qqv->...qv", covariance)
    good = np.isfinite(covariance).all(axis=(-3, -2)) & (diagonal > SMALLEST_VARIANCE).all(axis=-2)
    scale = np.sqrt(np.where(good[..., None, :], diagonal, 1.0))
    correlation = covariance / (scale[..., :, None, :] * scale[..., None, :, :])
    identity = np.eye(q)[:, :, None]
    correlation = np.where(good[..., None, None, :], correlation, identity)
    smallest = np.linalg.eigvalsh(np.moveaxis(correlation, -1, -3))[..., 0]
    return np.asarray(good & (smallest > SINGULAR))


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
