"""Means of runs over time, as nilearn's function of that name takes and gives them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import nilearn.image
import numpy as np
import xarray as xr
from nilearn.surface import SurfaceImage

from chunkglm.nilearn.runs import as_image, mean_image


def mean_img(
    imgs: Any,
    target_affine: Any = None,
    target_shape: Any = None,
    verbose: int = 0,
    n_jobs: int = 1,
    copy_header: bool = True,
) -> Any:
    """Take the mean of images over time.

    Parameters
    ----------
    imgs : image, path, store, or an iterable of them
        Of several the mean of their means.
    target_affine, target_shape, verbose, n_jobs, copy_header
        As nilearn's.

    Returns
    -------
    image

    Notes
    -----
    Equal to nilearn 0.14, in float64; a run is read once and a block of it held at a time, where
    nilearn loads it whole. Surface images are left to nilearn.
    """
    one = (str, Path, SurfaceImage, xr.DataArray)
    several = isinstance(imgs, Iterable) and not isinstance(imgs, one)
    means = [_mean(image) for image in imgs] if several else _mean(imgs)
    return nilearn.image.mean_img(means, target_affine, target_shape, verbose, n_jobs, copy_header)


def _mean(image: Any) -> Any:
    """Return the mean in place of a run; what nilearn should refuse or take whole, as it is."""
    image = as_image(image)
    loaded = nib.load(image) if isinstance(image, (str, Path)) and Path(image).is_file() else image
    if isinstance(loaded, SurfaceImage) or len(getattr(loaded, "shape", ())) != 4:
        return image
    mean = mean_image(loaded)
    return nib.Nifti1Image(np.asarray(mean.dataobj), mean.affine, loaded.header)
