"""The grid that maps lie on, as it travels in the attributes of a Dataset."""

import base64
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import nibabel as nib
import numpy as np
import xarray as xr

from chunkglm._types import FloatArray
from chunkglm.errors import MapsError
from chunkglm.schema import SPACE

_NIFTI1_BYTES, _NIFTI2_BYTES = 348, 540


@dataclass(frozen=True, slots=True)
class Grid:
    """Where voxels lie, and the header of the run that maps inherit."""

    affine: tuple[tuple[float, ...], ...]
    header: bytes | None  # the run's NIfTI header, extensions left out

    def attrs(self) -> dict[str, Any]:
        """Return attributes that bring the grid along.

        The affine is in one row, since netCDF keeps no nested lists.
        """
        found: dict[str, Any] = {"affine": [value for row in self.affine for value in row]}
        if self.header:
            found["nifti_header"] = base64.b64encode(self.header).decode("ascii")
        return found

    def matrix(self) -> FloatArray:
        """Voxel to mm, (4, 4)."""
        return np.asarray(self.affine, dtype=np.float64)

    def nifti_header(self) -> Any:
        """Return the run's header as nibabel holds it, or None."""
        if not self.header:
            return None
        is_nifti1 = len(self.header) == _NIFTI1_BYTES
        return (nib.Nifti1Header if is_nifti1 else nib.Nifti2Header)(self.header, check=False)


def grid_of_attrs(attrs: Any, label: str) -> Grid:
    """Read the grid from attributes; an array without an affine is refused."""
    try:
        affine = np.asarray(attrs.get("affine", []), dtype=np.float64)
    except (TypeError, ValueError):
        affine = np.empty(0)
    if affine.shape == (16,):
        affine = affine.reshape(4, 4)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        msg = (
            f'{label}: attrs["affine"] must be a finite 4 x 4 matrix, voxel to mm, but is '
            f"{attrs.get('affine')!r}"
        )
        raise MapsError(msg)
    header = attrs.get("nifti_header")
    rows = tuple(tuple(float(v) for v in row) for row in affine)
    return Grid(rows, base64.b64decode(header) if header else None)


def grid_of(array: Any, label: str) -> Grid:
    """Read the grid of a DataArray or Dataset: its affine, at the voxels its coordinates name.

    A run or a map that was cropped, flipped or thinned keeps the affine of the whole; its
    coordinates say which voxels are left.

    Raises
    ------
    MapsError
        When there is no affine, or coordinates are not evenly spaced.
    """
    whole = grid_of_attrs(array.attrs, label)
    kept, coords = np.eye(4), array.coords.variables
    for axis, dim in enumerate(SPACE):
        if dim not in coords or not coords[dim].size:
            continue
        indices = np.asarray(coords[dim].values, dtype=np.float64)
        if (indices == np.arange(indices.size)).all():
            continue  # all of them
        steps = np.diff(indices)
        step = steps[0] if steps.size else 1.0
        if not (np.isfinite(indices).all() and step != 0 and np.allclose(steps, step, rtol=1e-6)):
            msg = (
                f"{label}: the voxels along {dim} must be evenly spaced, but their indices are "
                f"{indices[:6].tolist()}...; take a regular part of the image"
            )
            raise MapsError(msg)
        kept[axis, axis], kept[axis, 3] = step, indices[0]
    if np.array_equal(kept, np.eye(4)):
        return whole
    return Grid(tuple(tuple(map(float, row)) for row in whole.matrix() @ kept), whole.header)


# Three indexes of pandas take longer to make than a Dataset of eight maps: 0.2 of 0.4 ms.
@lru_cache(maxsize=8)
def voxel_indices(shape: tuple[int, ...]) -> xr.Coordinates:
    """Coordinates of all voxels of a grid, (x, y, z); shared, and not to be changed."""
    indices = {d: np.arange(n) for d, n in zip(SPACE, shape, strict=True)}
    for values in indices.values():
        values.flags.writeable = False
    return xr.Coordinates(indices)


def short_header(header: bytes) -> bytes | None:
    """Return a NIfTI header without its extensions; None where there is none to speak of."""
    if len(header) < _NIFTI1_BYTES:
        return None
    is_nifti2 = int.from_bytes(header[:4], "little") == _NIFTI2_BYTES
    is_nifti2 |= int.from_bytes(header[:4], "big") == _NIFTI2_BYTES
    return header[: _NIFTI2_BYTES if is_nifti2 else _NIFTI1_BYTES]
