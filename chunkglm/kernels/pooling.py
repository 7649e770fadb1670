"""Fixed effects: estimates of independent runs combined, voxel by voxel."""

from typing import NamedTuple

import numpy as np

from chunkglm._types import BoolArray, FloatArray
from chunkglm.kernels.inference import positive_definite


class Pooled(NamedTuple):
    """Fixed effects of V voxels; NaN where no run counts."""

    effect: FloatArray  # (q, V)
    covariance: FloatArray  # (q, q, V)
    n_runs: FloatArray  # (V,), runs that count
    dof: FloatArray  # (V,), their residual degrees of freedom together


def pool(
    effects: FloatArray,
    covariances: FloatArray,
    dofs: FloatArray,
    n_runs: FloatArray,
    *,
    precision_weighted: bool,
) -> Pooled:
    """Combine R estimates of the same effect.

    Parameters
    ----------
    effects : (R, q, V) array
    covariances : (R, q, q, V) array
    dofs : (R, V) array
        Residual degrees of freedom of each estimate.
    n_runs : (R, V) array
        Runs behind each estimate: 1 for a run, more for runs combined before.
    precision_weighted : bool
        False: mean effect, ``sum V_i / n**2``. True: ``(sum V_i^-1)^-1`` weights.

    Returns
    -------
    Pooled

    Notes
    -----
    A run whose variance is zero, negative or not finite (whose covariance is singular), or whose
    effect is not finite, does not count at that voxel. Estimates that are themselves combined
    merge exactly: their sums are recovered from `n_runs`.
    """
    counts = (
        np.isfinite(effects).all(axis=1)
        & positive_definite(covariances)
        & (dofs > 0)
        & (n_runs > 0)
    )
    runs = np.where(counts, n_runs, 0.0)
    n = runs.sum(axis=0)
    dof = np.where(counts, dofs, 0.0).sum(axis=0)
    none = n == 0
    if precision_weighted:
        effect, covariance = _precision_weighted(effects, covariances, counts)
    else:
        weight = runs / np.where(none, 1.0, n)
        kept = np.where(counts[:, None], effects, 0.0)
        kept_covariance = np.where(counts[:, None, None], covariances, 0.0)
        effect = (weight[:, None] * kept).sum(axis=0)
        covariance = ((weight**2)[:, None, None] * kept_covariance).sum(axis=0)
    effect[:, none] = np.nan
    covariance[:, :, none] = np.nan
    return Pooled(effect, covariance, n, np.where(none, np.nan, dof))


def _precision_weighted(
    effects: FloatArray, covariances: FloatArray, counts: BoolArray
) -> tuple[FloatArray, FloatArray]:
    """``V = (sum V_i^-1)^-1`` and ``V sum V_i^-1 e_i`` over the runs that count."""
    q = effects.shape[1]
    if q == 1:
        weight = np.zeros(effects.shape)
        np.divide(1.0, covariances[:, 0], out=weight, where=counts[:, None])
        with np.errstate(divide="ignore"):
            variance = 1.0 / weight.sum(axis=0)
        with np.errstate(invalid="ignore"):
            effect = variance * (weight * np.where(counts[:, None], effects, 0.0)).sum(axis=0)
        return effect, variance[None]
    identity = np.eye(q)[:, :, None]
    usable = np.where(counts[:, None, None], covariances, identity)
    precision = np.linalg.inv(np.moveaxis(usable, -1, 1))  # (R, V, q, q)
    precision *= counts[:, :, None, None]
    kept = np.where(counts[:, None], effects, 0.0)
    weighted = np.einsum("ivab,ibv->va", precision, kept)
    total = precision.sum(axis=0)
    total[~counts.any(axis=0)] = np.eye(q)
    covariance = np.linalg.inv(total)
    effect = np.einsum("vab,vb->av", covariance, weighted)
    return effect, np.moveaxis(covariance, 0, -1).copy()
