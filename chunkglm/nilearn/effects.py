"""Contrasts of runs as nilearn's `Contrast` holds them, and their combination."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from chunkglm._types import AnyArray, FloatArray, IntArray
from chunkglm.glm import Fit
from chunkglm.glm.contrasts import basis_weights
from chunkglm.kernels.estimate import contrasts_of, solutions, statistics
from chunkglm.kernels.moments import Moments
from chunkglm.kernels.pooling import Estimate, pool
from chunkglm.kernels.solve import Model
from chunkglm.lazy.blas import one_blas_thread
from chunkglm.nilearn.workers import n_threads
from chunkglm.sizes import SLAB_BYTES


class Effects(NamedTuple):
    """One contrast over runs, over the V voxels of the mask, x fastest, then y, then z."""

    effect: FloatArray  # (q, V); whitened for F
    variance: FloatArray  # (V,); of the noise for F
    dof: FloatArray  # (V,)
    stat_type: str

    def maps(self, wanted: Iterable[str]) -> dict[str, AnyArray]:
        """Return some of nilearn's five outputs; 0 where there is no statistic, p is 1 there."""
        found = {
            "effect_size": self.effect[0] if self.stat_type == "t" else self.effect,
            "effect_variance": self.variance,
        }
        if not set(wanted) <= set(found):
            covariance = np.eye(self.effect.shape[0])[:, :, None] * self.variance
            stat, p, z = statistics(self.effect, covariance, self.dof, self.stat_type)
            found |= {"z_score": z, "stat": stat, "p_value": np.where(np.isnan(p), 1.0, p)}
        return {name: np.where(np.isnan(found[name]), 0.0, found[name]) for name in wanted}


def moments_of(fit: Fit) -> Moments:
    """Moments of a fit that holds them in memory."""
    return Moments(*(fit.dataset[name].to_numpy() for name in Moments._fields))


def effects_of_runs(
    fits: Sequence[Fit], weights: Sequence[FloatArray], stat_type: str, n_jobs: int | None
) -> Effects:
    """Take a contrast of each run and combine them as nilearn does: mean effect, equal weights.

    Parameters
    ----------
    fits : sequence of Fit
        With their moments in memory: voxels are solved where they lie, and no graph is made.
    weights : sequence of (q, k) arrays
        Of the columns of each run's design.
    stat_type : {"t", "F"}
    n_jobs : int, optional
        See `n_threads`.

    Notes
    -----
    nilearn's effects of an F contrast are whitened, ``M^-1/2 C b`` with ``s2 M`` their
    covariance, and its variance is ``s2``; over runs both are averaged as for t.
    """
    pooled = pool(
        (_of_run(f, w, stat_type, n_jobs) for f, w in zip(fits, weights, strict=True)),
        precision_weighted=False,
    )
    return Effects(pooled.effect, pooled.covariance[0, 0], pooled.dof, stat_type)


def _of_run(fit: Fit, weights: FloatArray, stat_type: str, n_jobs: int | None) -> Estimate:
    in_basis = basis_weights(fit, weights, stat_type=stat_type)  # type: ignore[arg-type]
    moments, model = moments_of(fit), fit.model
    q, n_voxels = len(in_basis), moments.reference.size
    effect, variance = np.empty((q, n_voxels)), np.empty(n_voxels)
    status = np.empty(n_voxels, dtype=np.int8)

    def solve(voxels: slice) -> None:
        _solve_into(
            effect[:, voxels], variance[voxels], status[voxels],
            moments.of_voxels(voxels), model, in_basis, stat_type,
        )  # fmt: skip

    with one_blas_thread():
        if moments.products.nbytes <= SLAB_BYTES:
            # Of 46,000 voxels this takes 20 ms; threads would take 12, and keep 9 MB they freed.
            solve(slice(n_voxels))
        else:
            parts = [slice(a, b) for a, b in pairwise([0, *accumulate(fit.slabs.voxel_chunks)])]
            with ThreadPoolExecutor(n_threads(n_jobs) or os.cpu_count()) as threads:
                list(threads.map(solve, parts))
    ones = np.ones(n_voxels)
    return Estimate(
        effect, np.eye(q)[:, :, None] * variance, ones, np.full(n_voxels, float(fit.dof)), status
    )


def _solve_into(
    effect: FloatArray,
    variance: FloatArray,
    status: IntArray,
    moments: Moments,
    model: Model,
    weights: FloatArray,
    stat_type: str,
) -> None:
    for part, solution in solutions(moments, model, None):
        effect[:, part], covariance = contrasts_of(solution, model, weights)
        status[part] = solution.status
        if stat_type == "t":
            variance[part] = covariance[0, 0]
        else:
            variance[part] = solution.sigma2
            effect[:, part] = _whitened(effect[:, part], covariance / solution.sigma2)


def _whitened(effect: FloatArray, unscaled: FloatArray) -> FloatArray:
    """``M^-1/2 e`` of every voxel; NaN stays NaN."""
    good = np.isfinite(unscaled).all(axis=(0, 1)) & np.isfinite(effect).all(axis=0)
    out = np.full(effect.shape, np.nan)
    values, vectors = np.linalg.eigh(np.moveaxis(unscaled[:, :, good], -1, 0))
    root = (vectors / np.sqrt(values)[:, None, :]) @ np.swapaxes(vectors, 1, 2)
    out[:, good] = np.einsum("vab,bv->av", root, effect[:, good])
    return out
