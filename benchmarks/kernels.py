"""Rows of the kernels: series in memory, one thread."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.rows import Row, faster_row, paired, refuse_unless

SIZE = (191, 12, 20_000)  # volumes, regressors, voxels

# On float64 input both sides agree to rounding (worst seen 2e-12).
SAME_KERNEL = 1e-8


def kernel_rows(repeats: int, size: tuple[int, int, int] = SIZE) -> Iterator[Row]:
    """AR(1) fit and one contrast on arrays in memory, without and with p and z; AR(3)."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield from _first_order(3 * repeats, size)
        yield _third_order(max(3, repeats), size)


def _sizes(size: tuple[int, int, int]) -> str:
    return f"{size[2]:,} voxels x {size[0]} x {size[1]}, 1 thread"


def _design(rng: np.random.Generator, n_scans: int, n_regressors: int) -> Any:
    return np.c_[rng.standard_normal((n_scans, n_regressors - 1)), np.ones(n_scans)]


def _first_order(repeats: int, size: tuple[int, int, int]) -> Iterator[Row]:
    from nilearn.glm.contrasts import compute_contrast
    from nilearn.glm.first_level import run_glm

    from chunkglm.kernels.estimate import contrast_maps, estimate
    from chunkglm.kernels.factor import factor_design
    from chunkglm.kernels.noise import AR
    from chunkglm.kernels.solve import Model
    from chunkglm.kernels.summing import of_series

    rng = np.random.default_rng(0)
    n_scans, n_regressors, n_voxels = size
    design = _design(rng, n_scans, n_regressors)
    series = 1e4 + 100 * rng.standard_normal((n_scans, n_voxels))
    weights = np.eye(n_regressors)[:1]

    def their_t() -> Any:
        labels, results = run_glm(series, design, "ar1", bins=100)
        found = compute_contrast(labels, results, weights[0])
        return found, found.effect, found.variance, found.stat()

    def their_z() -> Any:
        found = their_t()[0]
        return found.p_value(), found.z_score()

    def our_moments() -> Any:
        factor = factor_design(design)
        model = Model(factor, AR(1, bins=100), percent=False)
        moments = of_series(series, factor.shifted_basis(1))
        return moments, model, factor.contrast_in_basis(weights)

    def our_t() -> Any:
        effect, variance, _ = estimate(*our_moments())
        return effect[0], variance[0, 0], effect[0] / np.sqrt(variance[0, 0])

    def our_z() -> Any:
        return contrast_maps(*our_moments(), "t")

    same = np.abs(our_t()[2] - their_t()[3]).max() < SAME_KERNEL
    same &= np.abs(our_z()["z_score"] - their_z()[1]).max() < SAME_KERNEL
    refuse_unless(bool(same), "kernel")
    work = f"kernel: AR(1) + contrast, {_sizes(size)}"
    yield faster_row("kernel", work, *paired(their_t, our_t, repeats), 20)
    yield faster_row("kernel-pz", "  with p and z maps", *paired(their_z, our_z, repeats), 15)


def _third_order(repeats: int, size: tuple[int, int, int]) -> Row:
    """AR(3) fit and one contrast; nilearn takes the coefficients of clusters of voxels."""
    from nilearn.glm.contrasts import compute_contrast
    from nilearn.glm.first_level import run_glm
    from nilearn.glm.regression import ARModel

    from chunkglm.kernels.estimate import estimate, model_maps
    from chunkglm.kernels.factor import factor_design
    from chunkglm.kernels.noise import AR
    from chunkglm.kernels.solve import Model
    from chunkglm.kernels.summing import of_series

    rng = np.random.default_rng(0)
    n_scans, n_regressors, n_voxels = size
    design = _design(rng, n_scans, n_regressors)
    series = 100 * rng.standard_normal((n_scans, n_voxels))
    for t in range(1, n_scans):
        series[t] += 0.4 * series[t - 1]
    series += 1e4
    weights = np.eye(n_regressors)[:1]

    def theirs() -> Any:
        labels, results = run_glm(series, design, "ar3")
        return compute_contrast(labels, results, weights[0]).stat()

    def our_moments() -> Any:
        factor = factor_design(design)
        model = Model(factor, AR(3), percent=False)
        return of_series(series, factor.shifted_basis(3)), model

    def ours() -> Any:
        moments, model = our_moments()
        effect, variance, _ = estimate(moments, model, model.factor.contrast_in_basis(weights))
        return effect[0] / np.sqrt(variance[0, 0])

    found, coefficients = ours(), model_maps(*our_moments())["ar"]
    # Voxel by voxel nilearn's model gives the same, given the same coefficients.
    same = True
    for v in range(0, n_voxels, max(1, n_voxels // 20)):
        one = ARModel(design, coefficients[:, v]).fit(series[:, v : v + 1])
        same &= abs(one.Tcontrast(weights[0]).t.item() - found[v]) < SAME_KERNEL
    refuse_unless(bool(same), "kernel of AR(3)")
    work = f"kernel: AR(3) + contrast, {_sizes(size)}"
    return faster_row("kernel-ar3", work, *paired(theirs, ours, repeats), 20)
