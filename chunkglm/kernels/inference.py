"""From statistics to p values and z scores, both tails at full precision."""

from functools import lru_cache

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial
from scipy.special import fdtr, fdtrc, ndtr, ndtri, stdtr, stdtrit

from chunkglm._types import BoolArray, FloatArray

# Clips that keep z finite: |z| ends at 37.05.
SMALLEST_P = 1e-300
LARGEST_P = 1.0 - 1e-16

# A variance below this cannot be inverted and summed over runs within float64.
SMALLEST_VARIANCE = 1e-300

# A correlation matrix whose smallest eigenvalue is below this is singular but for rounding.
SINGULAR = 1e-12

# z of many voxels is a polynomial's where it is small, which is exact to rounding: 45,592 voxels
# take 1.4 ms instead of 15. Its degree is 10 with 178 degrees of freedom, 18 with 20.
MANY_VOXELS = 1000
SMALLEST_DOF, LARGEST_Z = 20, 10.0
DEGREES, ROUNDING_OF_Z = range(6, 31, 2), 1e-15
NODES = 400  # more than coefficients, so that the rounding of scipy's own tails averages out
VOXELS_AT_ONCE = 4096  # arrays of 32 kB each


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
    t = np.asarray(t, dtype=np.float64)
    if t.size < MANY_VOXELS:
        return _each_t_to_p_and_z(t, dof)
    if np.ndim(dof) == 0:
        return _many_t_to_p_and_z(t, float(dof))
    # Of maps: NaN outside the mask, and the few numbers of degrees of freedom that runs add up to.
    dofs = np.broadcast_to(np.asarray(dof, dtype=np.float64), t.shape)
    p, z = np.full(t.shape, np.nan), np.full(t.shape, np.nan)
    known = ~(np.isnan(t) | np.isnan(dofs))
    for one in _common_values(dofs[known]):
        part = known & (dofs == one)
        p[part], z[part] = _many_t_to_p_and_z(t[part], one)
        known &= ~part
    p[known], z[known] = _each_t_to_p_and_z(t[known], dofs[known])
    return p, z


def _common_values(values: FloatArray) -> list[float]:
    """Numbers that are there at least `MANY_VOXELS` times."""
    if values.size and values.min() == values.max():
        found, counts = values[:1], np.array([values.size])
    else:
        found, counts = np.unique(values, return_counts=True)
    return [float(value) for value in found[counts >= MANY_VOXELS]]


def _each_t_to_p_and_z(t: FloatArray, dof: FloatArray | float) -> tuple[FloatArray, FloatArray]:
    tail = stdtr(dof, -np.abs(t))
    z = np.copysign(-ndtri(np.clip(tail, SMALLEST_P, 0.5)), t)
    p = np.where(t >= 0, tail, 1.0 - tail)
    return _clipped(p), z + 0.0  # + 0.0 turns -0.0 into 0.0


def _many_t_to_p_and_z(t: FloatArray, dof: float) -> tuple[FloatArray, FloatArray]:
    """`t_to_p_and_z` of one number of degrees of freedom.

    With ``v = log(1 + t**2 / n)``, ``z / sqrt(v)`` is a smooth function of v and nearly constant
    (Wallace's approximation is a constant).
    """
    if dof < SMALLEST_DOF:
        return _each_t_to_p_and_z(t, dof)
    largest, coefficients = _z_over_root(dof)
    flat = np.ascontiguousarray(t).reshape(-1)
    p, z, v = np.empty(t.shape), np.empty(t.shape), np.empty(min(t.size, VOXELS_AT_ONCE))
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, t.size, VOXELS_AT_ONCE):
            part = slice(first, first + VOXELS_AT_ONCE)
            some, here, deviate = flat[part], v[: t.size - first], z.reshape(-1)[part]
            np.multiply(some, some, out=here)
            here /= dof
            np.log1p(here, out=here)
            beyond = here > largest
            deviate.fill(coefficients[-1])
            for c in coefficients[-2::-1].tolist():
                deviate *= here
                deviate += c
            deviate *= np.sqrt(here, out=here)
            np.copysign(deviate, some, out=deviate)
            tail = ndtr(np.negative(deviate, out=here), out=p.reshape(-1)[part])
            np.minimum(tail, LARGEST_P, out=tail)
            if beyond.any():
                tail[beyond], deviate[beyond] = _each_t_to_p_and_z(some[beyond], dof)
    z += 0.0  # turns -0.0 into 0.0
    return p, z


@lru_cache(maxsize=128)
def _z_over_root(dof: float) -> tuple[float, FloatArray]:
    """The largest v, and the coefficients of ``z / sqrt(v)`` as a polynomial of v up to there."""
    largest = float(np.log1p(stdtrit(dof, ndtr(-LARGEST_Z)) ** 2 / dof))
    v = 0.5 * largest * (1.0 + np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES))
    t = np.sqrt(dof * np.expm1(v))
    ratio = -ndtri(stdtr(dof, -t)) / np.sqrt(v)
    for degree in DEGREES:
        found = Chebyshev.fit(v, ratio, degree, domain=[0.0, largest])
        if np.abs(found.coef[-2:]).max() < ROUNDING_OF_Z * abs(found.coef[0]):
            break
    return largest, np.asarray(found.convert(kind=Polynomial, domain=[-1.0, 1.0]).coef)


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
