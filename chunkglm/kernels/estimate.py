"""From solutions to what a user asks for: contrasts, statistics and maps of the model."""

import math
from collections.abc import Iterator
from itertools import accumulate, pairwise

import numpy as np

from chunkglm._types import AnyArray, FloatArray, IntArray
from chunkglm.kernels.inference import f_statistic, f_to_p_and_z, t_to_p_and_z
from chunkglm.kernels.level import ESTIMATED
from chunkglm.kernels.moments import Moments
from chunkglm.kernels.pages import own_pages
from chunkglm.kernels.solve import Model, Solution, solve

# Voxels solved at once: (rank, voxels) arrays of 12 regressors are 0.4 MB and stay in cache, and
# the cost of a numpy call weighs little (20,000 voxels: 2.6 ms; in blocks of 1024, 4.7 ms).
VOXELS_IN_CACHE = 4096

# Numbers of all contrasts at once, of each kind.
NUMBERS_IN_CACHE, FEWEST_OF_MANY = 80_000, 1024

# Bytes of the normal matrices of voxels solved at once, where they are matrices: of 12 regressors
# 4,096 have 4.7 MB, of 60 regressors 277.
MATRIX_BYTES, FEWEST_VOXELS = 8_000_000, 128

# Sums of products of unit vectors are off by this much from rounding alone.
ROUNDING = 1e-13


def contrast_maps(
    moments: Moments,
    model: Model,
    weights: FloatArray,
    stat_type: str,
    autocorrelation: FloatArray | None = None,
) -> dict[str, AnyArray]:
    """Effect, variance, statistic, p and z in every voxel, of one contrast or of several.

    Parameters
    ----------
    moments : Moments
        Of a whole run, V voxels.
    model : Model
    weights : (..., q, r) array
        The contrast, or several, in the basis, from `DesignFactor.contrast_in_basis`.
    stat_type : {"t", "F"}
    autocorrelation : (p + 1, V) array, optional
        See `solve`.

    Returns
    -------
    dict of arrays
        ``effect_size`` and ``effect_variance``, (..., V) for t, (..., q, V) and (..., q, q, V) for
        F; ``stat``, ``p_value``, ``z_score`` (..., V); ``dof`` (V,), ``voxel_status`` (V,) int8.

    Notes
    -----
    F is the same whatever rows span the contrast, so it is taken of rows that are orthonormal in
    the basis: of the rows given, their covariance is singular to rounding once two of them differ
    by less than 1e-6. Effects and covariance are put back into those given.
    """
    rows, back = weights, None
    if weights.shape[-2] > 1:
        rows, back = orthonormal_rows(weights)
    *leading, q, n_voxels = *weights.shape[:-1], moments.reference.size
    over = (*leading, n_voxels)
    effect, covariance, stat, p, z = _in_one_piece(
        (*leading, q, n_voxels), (*leading, q, q, n_voxels), over, over, over
    )
    status = _estimate_into(effect, covariance, moments, model, rows, autocorrelation)
    dof = float(model.factor.dof)
    statistics(effect, covariance, dof, stat_type, out=(stat, p, z))
    if back is not None:
        effect = np.einsum("...ab,...bv->...av", back, effect)
        covariance = np.einsum("...ac,...cdv,...bd->...abv", back, covariance, back, optimize=True)
    one = stat_type == "t"
    return {
        "effect_size": effect[..., 0, :] if one else effect,
        "effect_variance": covariance[..., 0, 0, :] if one else covariance,
        "stat": stat,
        "p_value": p,
        "z_score": z,
        "dof": np.where(status == ESTIMATED, dof, np.nan),
        "voxel_status": status,
    }


def _in_one_piece(*shapes: tuple[int, ...]) -> list[FloatArray]:
    """Arrays that lie one after the other, in huge pages where they fill some.

    Memory that is touched for the first time is a third of the cost of 20 contrasts; in huge
    pages it takes a third of the time. numpy asks for those from 4 MB on, too, but its arrays begin
    and end within one: 20 contrasts then cost 0.25 to 0.27 more than one, and so 0.18 to 0.23.
    """
    sizes = [math.prod(shape) for shape in shapes]
    memory, edges = own_pages((sum(sizes),)), [0, *accumulate(sizes)]
    return [
        memory[a:b].reshape(shape) for shape, (a, b) in zip(shapes, pairwise(edges), strict=True)
    ]


def orthonormal_rows(weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Orthonormal rows that span those given, and the matrices that lead back to these.

    Parameters
    ----------
    weights : (..., q, r) array

    Returns
    -------
    rows : (..., q, r) array
    back : (..., q, q) array
        ``weights = back @ rows``.
    """
    q, r = np.linalg.qr(np.swapaxes(weights, -1, -2))
    return np.swapaxes(q, -1, -2), np.swapaxes(r, -1, -2)


def row_singular_values(weights: FloatArray) -> FloatArray:
    """Singular values of rows brought to unit length, largest first.

    Parameters
    ----------
    weights : (q, r) array

    Returns
    -------
    (q,) array
        Ones where they are orthogonal; with zeros, or nearly, where some follow from others.
    """
    unit = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    values = np.zeros(len(weights))
    found = np.linalg.svd(unit, compute_uv=False)
    values[: found.size] = found
    return values


def estimate(
    moments: Moments,
    model: Model,
    weights: FloatArray,
    autocorrelation: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Effects of contrasts and their covariance in every voxel; each voxel is solved once.

    Parameters
    ----------
    moments : Moments
        Of a whole run, V voxels.
    model : Model
    weights : (..., q, r) array
        Contrasts in the basis, from `DesignFactor.contrast_in_basis`.
    autocorrelation : (p + 1, V) array, optional
        See `solve`.

    Returns
    -------
    effect : (..., q, V) array
    covariance : (..., q, q, V) array
        Between the rows of each contrast.
    status : (V,) int8 array
    """
    *leading, q, n_voxels = *weights.shape[:-1], moments.reference.size
    effect = np.empty((*leading, q, n_voxels))
    covariance = np.empty((*leading, q, q, n_voxels))
    status = _estimate_into(effect, covariance, moments, model, weights, autocorrelation)
    return effect, covariance, status


def _estimate_into(
    effect: FloatArray,
    covariance: FloatArray,
    moments: Moments,
    model: Model,
    weights: FloatArray,
    autocorrelation: FloatArray | None,
) -> IntArray:
    """Overwrite effects and covariance, and return the status; see `estimate`."""
    status = np.empty(moments.reference.size, dtype=np.int8)
    n_contrasts = math.prod(weights.shape[:-2])
    for part, solution in solutions(moments, model, autocorrelation, n_contrasts):
        effect[..., part], covariance[..., part] = contrasts_of(solution, model, weights)
        status[part] = solution.status
    return status


def contrasts_of(
    solution: Solution, model: Model, weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Effects and covariance of contrasts of voxels that are solved; see `estimate`."""
    of_constant = constant_under(weights, model.factor.constant)
    return solution.effect_of(weights, of_constant), solution.covariance_of(weights)


def constant_under(weights: FloatArray, constant: FloatArray) -> FloatArray:
    """What contrasts say of a series of ones; 0 where it is no more than rounding.

    Times an offset of 1e10 rounding would be an effect of 1e-5.

    Parameters
    ----------
    weights : (..., q, r) array
        In the basis of the design.
    constant : (r,) array
        `DesignFactor.constant`.

    Returns
    -------
    (..., q) array
    """
    found = weights @ constant
    size = np.linalg.norm(weights, axis=-1) * np.linalg.norm(constant)
    return np.where(np.abs(found) > ROUNDING * size, found, 0.0)


def statistics(
    effect: FloatArray,
    covariance: FloatArray,
    dof: FloatArray | float,
    stat_type: str,
    out: tuple[FloatArray, FloatArray, FloatArray] | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Statistic, p and z from effects and their covariance.

    Parameters
    ----------
    effect : (..., q, V) array
        Of one contrast, or of several.
    covariance : (..., q, q, V) array
    dof : (V,) array or float
    stat_type : {"t", "F"}
    out : three (..., V) arrays, optional
        C-contiguous; overwritten and returned.

    Returns
    -------
    stat, p, z : (..., V) arrays
    """
    *leading, q, n_voxels = effect.shape
    if out is None:
        memory = np.empty((3, *leading, n_voxels))
        out = memory[0], memory[1], memory[2]
    stat, p, z = out
    with np.errstate(invalid="ignore", divide="ignore"):
        if stat_type == "t":
            np.sqrt(covariance[..., 0, 0, :], out=stat)
            np.divide(effect[..., 0, :], stat, out=stat)
            t_to_p_and_z(stat, dof, out=(p, z))
        else:
            for i in np.ndindex(*leading):
                stat[i] = f_statistic(effect[i], covariance[i])
            p[...], z[...] = f_to_p_and_z(stat, q, dof)
    return out


def model_maps(
    moments: Moments, model: Model, autocorrelation: FloatArray | None = None
) -> dict[str, AnyArray]:
    """Coefficients, noise and fit of every voxel.

    Parameters
    ----------
    moments : Moments
        Of a whole run, V voxels.
    model : Model
    autocorrelation : (p + 1, V) array, optional
        See `solve`.

    Returns
    -------
    dict of arrays
        ``beta`` (k, V), ``sigma2`` (V,), ``ar`` (order, V), ``r_square`` (V,), ``voxel_status``
        (V,) int8.
    """
    n_voxels = moments.reference.size
    to_beta = model.factor.regressors_from_basis()
    of_constant = constant_under(to_beta, model.factor.constant)
    out: dict[str, AnyArray] = {
        "beta": np.empty((to_beta.shape[0], n_voxels)),
        "sigma2": np.empty(n_voxels),
        "ar": np.empty((model.noise.order, n_voxels)),
        "r_square": np.empty(n_voxels),
        "voxel_status": np.empty(n_voxels, dtype=np.int8),
    }
    for part, solution in solutions(moments, model, autocorrelation):
        out["beta"][:, part] = model.factor.regressors_of(solution.b)
        out["beta"][:, part] += np.multiply.outer(of_constant, solution.offset)
        out["sigma2"][part] = solution.sigma2
        out["ar"][:, part] = solution.phi
        out["r_square"][part] = solution.r_square
        out["voxel_status"][part] = solution.status
    return out


def solutions(
    moments: Moments, model: Model, autocorrelation: FloatArray | None, n_contrasts: int = 1
) -> Iterator[tuple[slice, Solution]]:
    """Solve voxels, as many at once as suits the cache; which they are, and their solution."""
    for part in voxel_blocks(moments.reference.size, model, n_contrasts):
        of_part = None if autocorrelation is None else autocorrelation[:, part]
        yield part, solve(moments.of_voxels(part), model, of_part)


def voxel_blocks(n_voxels: int, model: Model, n_contrasts: int = 1) -> Iterator[slice]:
    """Ranges of voxels that are solved at once."""
    step = min(VOXELS_IN_CACHE, max(FEWEST_OF_MANY, NUMBERS_IN_CACHE // n_contrasts))
    if not model.closed_form:
        fit_in = MATRIX_BYTES // (8 * model.factor.rank**2)
        step = min(step, max(FEWEST_VOXELS, fit_in))
    for first in range(0, n_voxels, step):
        yield slice(first, min(first + step, n_voxels))
