"""From statistics to p values and z scores, both tails at full precision."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial
from scipy.special import fdtr, fdtrc, ndtr, ndtri, stdtr

from chunkglm._types import BoolArray, FloatArray

# Clips that keep z finite: |z| ends at 37.05.
SMALLEST_P = 1e-300
LARGEST_P = 1.0 - 1e-16

# A variance below this cannot be inverted and summed over runs within float64.
SMALLEST_VARIANCE = 1e-300

# A correlation matrix whose smallest eigenvalue is below this is singular but for rounding.
SINGULAR = 1e-12

# z of many voxels is a polynomial's, piece by piece of its range, exact to rounding: 45,592 voxels
# take 1.6 ms instead of 14. With 178 degrees of freedom its degree is 8, 12 and 16, with 20 up to
# 24.
MANY_VOXELS = 1000
SMALLEST_DOF = 20
LARGEST_Z = -float(ndtri(SMALLEST_P))
# Tails at which pieces end, at z = 10 and 20; the last goes on a little, and is cut at `LARGEST_Z`.
PIECES = (float(ndtr(-10.0)), float(ndtr(-20.0)), 0.1 * SMALLEST_P)
DEGREES, ROUNDING_OF_Z = range(2, 31, 2), 1e-15
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
    flat = np.ascontiguousarray(t).reshape(-1)
    p, z, v = np.empty(t.shape), np.empty(t.shape), np.empty(min(t.size, VOXELS_AT_ONCE))
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, t.size, VOXELS_AT_ONCE):
            part = slice(first, first + VOXELS_AT_ONCE)
            some, here, deviate = flat[part], v[: t.size - first], z.reshape(-1)[part]
            np.multiply(some, some, out=here)
            here /= dof
            np.log1p(here, out=here)
            _deviates(here, _pieces(dof), deviate)
            # + 0.0 turns -0.0 into 0.0
            np.add(np.copysign(deviate, some, out=deviate), 0.0, out=deviate)
            tail = ndtr(np.negative(deviate, out=here), out=p.reshape(-1)[part])
            np.clip(tail, SMALLEST_P, LARGEST_P, out=tail)
    return p, z


class _Piece(NamedTuple):
    """``z / sqrt(v)`` between two v, as a polynomial of where v lies between them, -1 to 1."""

    middle: float
    half: float
    coefficients: list[float]

    def values(self, v: FloatArray, out: FloatArray) -> None:
        """Put z into `out`."""
        x = v - self.middle
        x /= self.half
        out.fill(self.coefficients[-1])
        for c in self.coefficients[-2::-1]:
            out *= x
            out += c
        out *= np.sqrt(v, out=x)


def _deviates(v: FloatArray, pieces: Sequence[_Piece], out: FloatArray) -> None:
    """Positive z of positive t."""
    pieces[0].values(v, out)
    beyond = np.flatnonzero(v > pieces[0].middle + pieces[0].half)
    for piece in pieces[1:]:
        if not beyond.size:
            return
        there = v[beyond]
        found = np.empty_like(there)
        piece.values(there, found)
        out[beyond] = np.minimum(found, LARGEST_Z, out=found)
        beyond = beyond[there > piece.middle + piece.half]
    out[beyond] = LARGEST_Z


@lru_cache(maxsize=128)
def _pieces(dof: float) -> tuple[_Piece, ...]:
    """Fit z to scipy's tails, up to each of `PIECES`."""
    found, low = [], 0.0
    for tail in PIECES:
        high = float(np.log1p(_t_of_tail(tail, dof) ** 2 / dof))
        middle, half = 0.5 * (low + high), 0.5 * (high - low)
        x = np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES)
        v = middle + half * x
        ratio = -ndtri(stdtr(dof, -np.sqrt(dof * np.expm1(v)))) / np.sqrt(v)
        for degree in DEGREES:
            fitted = Chebyshev.fit(x, ratio, degree, domain=[-1.0, 1.0])
            if np.abs(fitted.coef[-2:]).max() < ROUNDING_OF_Z * abs(fitted.coef[0]):
                break
        found.append(_Piece(middle, half, fitted.convert(kind=Polynomial).coef.tolist()))
        low = high
    return tuple(found)


def _t_of_tail(tail: float, dof: float) -> float:
    """T above which is `tail`, to a digit or two (scipy's own inverse fails far out)."""
    low, high = 1.0, 1e30
    while high / low > 1.0001:
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if stdtr(dof, -middle) > tail else (low, middle)
    return low


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
