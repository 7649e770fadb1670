"""Fixed effects of images, as nilearn's function of that name takes and gives them."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from nilearn.maskers import NiftiMasker, SurfaceMasker
from nilearn.surface import SurfaceImage

from chunkglm._types import FloatArray
from chunkglm.errors import MapsError
from chunkglm.kernels.estimate import statistics
from chunkglm.kernels.level import ESTIMATED
from chunkglm.kernels.pooling import Estimate, pool
from chunkglm.nilearn.maps import VoxelMaps
from chunkglm.nilearn.workers import give_back

# nilearn's floor of variances, and the degrees of freedom it assumes of each run.
_SMALLEST_VARIANCE = 1e-16
_ASSUMED_DOF = 100


def compute_fixed_effects(
    contrast_imgs: Sequence[Any],
    variance_imgs: Sequence[Any],
    mask: Any = None,
    precision_weighted: bool = False,
    dofs: Sequence[float] | None = None,
    return_z_score: bool = True,
) -> tuple[Any, ...]:
    """Combine effects of one contrast over runs.

    Parameters
    ----------
    contrast_imgs, variance_imgs : lists of images or paths
        Effects, and their variance, of each run, in the same order.
    mask : image, path, masker, or None
        None lets nilearn compute one from `contrast_imgs`.
    precision_weighted : bool
        Weigh runs by the inverse of their variance.
    dofs : sequence of float, optional
        Degrees of freedom of each run; nilearn assumes 100 each, and so does this.
    return_z_score : bool
        False leaves the z map out, as older versions of nilearn did.

    Returns
    -------
    effect, variance, stat, z_score : images
        As the masker makes them.

    Raises
    ------
    MapsError
        When the numbers of effects, variances and degrees of freedom differ. A ValueError.

    Notes
    -----
    Equal to nilearn 0.14, variances below 1e-16 raised to it included, save that

    - runs are read one after the other and added up: memory does not grow with their number;
    - sums are float64 also when images are float32;
    - effects of several rows (F) are weighed by precision run by run, where nilearn raises or,
      with as many rows as runs, takes rows for runs;
    - degrees of freedom that are not positive are refused.

    `chunkglm.fixed_effects` uses each run's own degrees of freedom and leaves out, voxel by voxel,
    runs whose variance is no variance.
    """
    n_runs = len(contrast_imgs)
    if n_runs != len(variance_imgs):
        msg = (
            f"The number of contrast images ({n_runs}) differs from the number of variance images "
            f"({len(variance_imgs)})."
        )
        raise MapsError(msg)
    if n_runs == 0:
        msg = "fixed effects need the images of at least one run, but the lists are empty"
        raise MapsError(msg)
    each = _check_dofs(dofs, n_runs)
    masker = _masker(mask, contrast_imgs)
    pairs = zip(contrast_imgs, variance_imgs, strict=True)
    estimates = (_estimate(effect, variance) for effect, variance in _read(masker, pairs))
    pooled = pool(estimates, precision_weighted=precision_weighted)
    stat_type = "t" if pooled.effect.shape[0] == 1 else "F"
    stat, _, z = statistics(pooled.effect, pooled.covariance, float(sum(each)), stat_type)
    effect = pooled.effect[0] if stat_type == "t" else pooled.effect
    maps = [effect, pooled.covariance[0, 0], stat, z]
    images = tuple(masker.image(m) for m in maps[: 4 if return_z_score else 3])
    give_back()
    return images


def _check_dofs(dofs: Sequence[float] | None, n_runs: int) -> list[float]:
    if dofs is None:
        return [float(_ASSUMED_DOF)] * n_runs
    if len(dofs) != n_runs:
        msg = (
            f"The number of degrees of freedom ({len(dofs)}) differs from the number of contrast "
            f"images ({n_runs})."
        )
        raise MapsError(msg)
    if not all(np.isfinite(d) and d > 0 for d in dofs):
        msg = f"degrees of freedom must be positive numbers, but are {list(dofs)}"
        raise MapsError(msg)
    return [float(d) for d in dofs]


class _OfMasker:
    """Maps as a masker of the user's makes them, or one of surfaces."""

    def __init__(self, masker: Any) -> None:
        self.values, self.image = masker.transform, masker.inverse_transform


def _masker(mask: Any, images: Sequence[Any]) -> VoxelMaps | _OfMasker:
    """Maps as the masker makes them that nilearn would use."""
    if isinstance(mask, (NiftiMasker, SurfaceMasker)):
        with warnings.catch_warnings():
            # Of a masker that has a mask already.
            warnings.filterwarnings("ignore", message=".*Generation of a mask.*")
            return _OfMasker(mask.fit())
    if mask is None and not isinstance(images[0], SurfaceImage):
        return VoxelMaps(NiftiMasker(standardize=None).fit(list(images)))
    if isinstance(images[0], SurfaceImage):
        return _OfMasker(SurfaceMasker(mask_img=mask, standardize=None).fit(images[0]))
    return VoxelMaps(NiftiMasker(mask_img=mask, standardize=None).fit())


def _read(masker: VoxelMaps | _OfMasker, pairs: Any) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Effects (q, V) and variances (V,) of each run in turn."""
    rows = 0
    for i, (contrast_img, variance_img) in enumerate(pairs):
        effect = np.atleast_2d(masker.values(contrast_img)).astype(np.float64)
        variance = np.atleast_2d(masker.values(variance_img)).astype(np.float64)
        rows = rows or effect.shape[0]
        if effect.shape[0] != rows:
            msg = f"run {i}: its effects have {effect.shape[0]} rows, those of run 0 have {rows}"
            raise MapsError(msg)
        if variance.shape != (1, effect.shape[1]):
            msg = (
                f"run {i}: the variance must be one map of {effect.shape[1]} voxels, but is "
                f"{variance.shape[0]} of {variance.shape[1]}"
            )
            raise MapsError(msg)
        yield effect, np.maximum(variance[0], _SMALLEST_VARIANCE)


def _estimate(effect: FloatArray, variance: FloatArray) -> Estimate:
    ones = np.ones(variance.size)
    # nilearn's effects of several rows are whitened: one variance holds for all of them.
    covariance = np.eye(effect.shape[0])[:, :, None] * variance
    status = np.full(variance.size, ESTIMATED, dtype=np.int8)
    return Estimate(effect, covariance, ones, ones, status)
