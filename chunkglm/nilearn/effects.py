"""Contrasts of runs as nilearn's `Contrast` holds them, and their combination."""

from collections.abc import Sequence
from typing import NamedTuple

import dask
import numpy as np

from chunkglm._types import AnyArray, BoolArray, FloatArray
from chunkglm.glm import Fit, contrast
from chunkglm.kernels.estimate import statistics
from chunkglm.kernels.pooling import Estimate, pool
from chunkglm.kernels.solve import ESTIMATED


class Effects(NamedTuple):
    """One contrast over runs, over the V voxels of the mask."""

    effect: FloatArray  # (q, V); whitened for F
    variance: FloatArray  # (V,); of the noise for F
    dof: FloatArray  # (V,)
    stat_type: str

    def maps(self) -> dict[str, AnyArray]:
        """Return nilearn's five outputs; 0 where there is no statistic, p is 1 there."""
        covariance = np.eye(self.effect.shape[0])[:, :, None] * self.variance
        stat, p, z = statistics(self.effect, covariance, self.dof, self.stat_type)
        found = {
            "z_score": z,
            "stat": stat,
            "p_value": np.where(np.isnan(p), 1.0, p),
            "effect_size": self.effect[0] if self.stat_type == "t" else self.effect,
            "effect_variance": self.variance,
        }
        return {name: np.where(np.isnan(values), 0.0, values) for name, values in found.items()}


def effects_of_runs(
    fits: Sequence[Fit], weights: Sequence[FloatArray], stat_type: str, mask: BoolArray
) -> Effects:
    """Take a contrast of each run and combine them as nilearn does: mean effect, equal weights.

    Parameters
    ----------
    fits : sequence of Fit
    weights : sequence of (q, k) arrays
        Of the columns of each run's design.
    stat_type : {"t", "F"}
    mask : (x, y, z) bool array
        Of the voxels that are returned, in C order.

    Notes
    -----
    nilearn's effects of an F contrast are whitened, ``M^-1/2 C b`` with ``s2 M`` their
    covariance, and its variance is ``s2``; over runs both are averaged as for t.
    """
    maps = [contrast(f, w, stat_type=stat_type) for f, w in zip(fits, weights, strict=True)]  # type: ignore[arg-type]
    names = ("effect_size", "effect_variance")
    taken = [[m[n].data for n in names] for m in maps]
    if stat_type == "F":
        taken = [[*arrays, f.sigma2.data] for arrays, f in zip(taken, fits, strict=True)]
    ones = np.ones(int(mask.sum()))
    status = np.full(ones.size, ESTIMATED, dtype=np.int8)
    estimates = []
    for f, (effect, covariance, *sigma2) in zip(fits, dask.compute(taken)[0], strict=True):
        e, v = np.atleast_2d(effect[..., mask]), covariance[..., mask]
        if stat_type == "F":
            v = sigma2[0][mask]
            e = _whitened(e, covariance[..., mask] / v)
        spread = np.eye(e.shape[0])[:, :, None] * v
        estimates.append(Estimate(e, spread, ones, f.dof * ones, status))
    pooled = pool(estimates, precision_weighted=False)
    return Effects(pooled.effect, pooled.covariance[0, 0], pooled.dof, stat_type)


def _whitened(effect: FloatArray, unscaled: FloatArray) -> FloatArray:
    """``M^-1/2 e`` of every voxel; NaN stays NaN."""
    good = np.isfinite(unscaled).all(axis=(0, 1)) & np.isfinite(effect).all(axis=0)
    out = np.full(effect.shape, np.nan)
    values, vectors = np.linalg.eigh(np.moveaxis(unscaled[:, :, good], -1, 0))
    root = (vectors / np.sqrt(values)[:, None, :]) @ np.swapaxes(vectors, 1, 2)
    out[:, good] = np.einsum("vab,bv->av", root, effect[:, good])
    return out
