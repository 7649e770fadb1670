"""Runs as nilearn's users give them, images and paths, as the arrays that are fitted."""

import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import xarray as xr
from nibabel.arrayproxy import is_proxy
from nilearn.image import check_niimg

from chunkglm._types import AnyArray, FloatArray
from chunkglm.blocks import block_volumes
from chunkglm.errors import ImageError
from chunkglm.glm import open_run
from chunkglm.glm.runs import untouched_source
from chunkglm.schema import SPACE, TIME


class _LazySamples:
    """A run's samples as nibabel holds them; read when something asks for numbers."""

    def __init__(self, run: xr.DataArray) -> None:
        self.run = run
        self.shape, self.dtype, self.ndim = run.shape, run.dtype, run.ndim

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> AnyArray:
        return np.asarray(self.run.to_numpy(), dtype=dtype)

    def __getitem__(self, key: Any) -> AnyArray:
        return np.asarray(self.run.data[key])


def as_image(run: Any) -> Any:
    """Return a store as an image that nilearn takes; anything else as it is.

    A store is a folder. Its image holds no samples until something asks for them.
    """
    if isinstance(run, xr.DataArray):
        opened = run
    elif isinstance(run, (str, Path)) and Path(run).is_dir():
        opened = open_run(run)
    else:
        return run
    image = nib.Nifti1Image(_LazySamples(opened), np.asarray(opened.attrs["affine"]))
    image.header.set_zooms((*image.header.get_zooms()[:3], opened.attrs.get("repetition_time", 0)))
    return image


def as_run(image: Any) -> xr.DataArray:
    """Return the run that an image or a path shows, without reading it.

    Raises
    ------
    ImageError
        When it is not an image over (x, y, z, time).
    """
    if isinstance(image, (str, Path)):
        return open_run(image)
    samples = getattr(image, "dataobj", None)
    if samples is None:
        msg = f"a run must be a path, an image or a store, but got {type(image).__name__}"
        raise ImageError(msg)
    if isinstance(samples, _LazySamples):
        return samples.run
    path = image.get_filename()
    if path and is_proxy(samples) and not image.in_memory:
        opened = open_run(path)
        # Headers can be changed in memory; then the file is no longer what the image says.
        if opened.shape == image.shape and np.array_equal(opened.attrs["affine"], image.affine):
            return opened
    if len(image.shape) != 4:
        msg = f"{path or 'image'}: a run has 4 axes, (x, y, z, time), but got {image.shape}"
        raise ImageError(msg)
    return xr.DataArray(
        np.asanyarray(samples),
        dims=(*SPACE, TIME),
        attrs={"affine": np.asarray(image.affine).tolist(), "source": path or "image in memory"},
    )


def mean_image(image: Any) -> Any:
    """Return the mean of a run over time as an image, in one pass of bounded memory."""
    run = as_run(image)
    return nib.Nifti1Image(mean_over_time(run), image_affine(run))


def finite(image: Any) -> Any:
    """Return an image with 0 in place of what is not finite."""
    return nib.Nifti1Image(np.nan_to_num(image.dataobj), image.affine)


def mean_over_time(run: xr.DataArray) -> FloatArray:
    """Return the mean of each voxel, (x, y, z) float64; a block of the run is held at a time."""
    n_scans, source = run.sizes[TIME], untouched_source(run)
    if source is None:
        return np.asarray(run.mean(TIME, skipna=False, dtype=np.float64).to_numpy())
    x, y, z, _ = source.shape
    volumes = block_volumes(x * y * z, n_scans, x * y * z * source.dtype.itemsize)
    total = np.zeros((z, y, x))
    for _, block in source.blocks(range(z), volumes):
        total += block.sum(axis=0, dtype=np.float64)
    return (total / n_scans * source.slope + source.intercept).T


def image_affine(run: xr.DataArray) -> AnyArray:
    """Voxel to mm, (4, 4)."""
    return np.asarray(run.attrs["affine"], dtype=np.float64)


def stand_in(image: Any) -> Any:
    """Return a volume of ones on the grid of a run, of which only the header is read.

    Of runs nilearn looks at the grid alone where there is a mask.
    """
    label = str(image) if isinstance(image, (str, Path)) else image.get_filename() or "image"
    try:
        opened = check_niimg(image)
    except (OSError, EOFError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        cause = " ".join(str(error).split())
        msg = f"{label}: the run cannot be read ({cause}); it is not NIfTI, truncated or corrupt"
        raise ImageError(msg) from error
    return nib.Nifti1Image(np.ones(opened.shape[:3], np.uint8), opened.affine)
