"""Masks: which voxels are fitted, never resampled in silence."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from chunkglm._types import AnyArray, BoolArray, FloatArray
from chunkglm.errors import ImageError, MapsError, MaskError
from chunkglm.glm.space import grid_of
from chunkglm.io.inflate import check_gzip
from chunkglm.schema import SPACE

# Largest difference of affines that counts as the same grid, mm: the float noise of headers.
SAME_GRID = 1e-4


def load_mask(mask: Any, shape: tuple[int, int, int], affine: FloatArray, run: str) -> BoolArray:
    """Read a mask and check that it lies on the run's grid.

    Parameters
    ----------
    mask : path, nibabel image, (x, y, z) array or DataArray, or None
        Two values, of which one is 0; None takes every voxel.
    shape : tuple of three ints
        The run's.
    affine : (4, 4) array
        The run's.
    run : str
        What messages call the run.

    Returns
    -------
    (x, y, z) bool array

    Raises
    ------
    MaskError
        When it is on another grid, empty, or not a mask.
    """
    if mask is None:
        return np.ones(shape, dtype=bool)
    values, found_affine, label = _read(mask)
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim > 3:
        msg = (
            f"{label}: a mask is one volume, but this has shape {values.shape}; pass one of {shape}"
        )
        raise MaskError(msg)
    if values.shape != shape:
        msg = (
            f"{label}: the mask's shape {values.shape} must be that of the run {run}, {shape}; "
            "resample the mask to the run"
        )
        raise MaskError(msg)
    if found_affine is not None:
        off = float(np.abs(found_affine - affine).max())
        if not off <= SAME_GRID:
            msg = (
                f"{label}: the mask's affine differs from that of the run {run} by up to "
                f"{off:.6g} mm ({_rows(found_affine)} and {_rows(affine)}); resample the mask to "
                "the run"
            )
            raise MaskError(msg)
    return _as_bool(values, label)


def _rows(affine: FloatArray) -> str:
    return "[" + ", ".join(" ".join(f"{v:.6g}" for v in row) for row in affine[:3]) + "]"


def _read(mask: Any) -> tuple[AnyArray, FloatArray | None, str]:
    if isinstance(mask, (str, Path)):
        path = Path(mask)
        if not path.exists():
            msg = f"{path}: no such mask file"
            raise MaskError(msg)
        try:
            image = nib.load(path)
            check_gzip(Path(image.file_map["image"].filename))
            return np.asarray(image.dataobj), np.asarray(image.affine), str(path)
        except Exception as error:
            cause = " ".join(str(error).split())
            msg = (
                f"{path}: the mask cannot be read ({cause}); it is not NIfTI, truncated or corrupt"
            )
            raise ImageError(msg) from error
    if isinstance(mask, nib.spatialimages.SpatialImage):
        label = mask.get_filename() or "mask image"
        return np.asarray(mask.dataobj), np.asarray(mask.affine), label
    if set(getattr(mask, "dims", ())) == set(SPACE):
        mask = mask.transpose(*SPACE)
    if "affine" in getattr(mask, "attrs", {}):
        told = np.asarray(mask.attrs["affine"], dtype=np.float64)
        if not np.isfinite(told).all():
            return np.asarray(mask), told, "mask"  # another grid than any run's; said as such
        try:
            return np.asarray(mask), grid_of(mask, "mask").matrix(), "mask"
        except MapsError as error:
            raise MaskError(str(error)) from error
    return np.asarray(mask), None, "mask"


def _as_bool(values: AnyArray, label: str) -> BoolArray:
    if values.dtype.kind not in "biuf":
        msg = f"{label}: a mask must hold numbers, 0 and one other value, but holds {values.dtype}"
        raise MaskError(msg)
    if values.dtype == bool:
        found = values
    else:
        levels = np.unique(values)
        levels = levels[levels != 0]
        if levels.size > 1 or not np.isfinite(levels).all():
            shown = ", ".join(f"{v:.6g}" for v in levels[:5])
            msg = (
                f"{label}: a mask must hold 0 and one other value, but it holds {shown}"
                f"{', ...' if levels.size > 5 else ''}; threshold the image first"
            )
            raise MaskError(msg)
        found = values != 0
    if not found.any():
        msg = f"{label}: the mask is empty; it selects none of {values.size} voxels"
        raise MaskError(msg)
    # A copy: a mask that the user changes later must not change a fit that is still lazy.
    return np.array(found, order="C")
