"""A grid turned so that its axes run to the right, the front and the top, and cut to the brain."""

from dataclasses import dataclass

import numpy as np
from nibabel.orientations import (
    apply_orientation,
    inv_ornt_aff,
    io_orientation,
)

from chunkglm._types import AnyArray, BoolArray, FloatArray

_MARGIN = 2  # voxels around the mask

# Directions off the scanner's by more than this are told: slices follow the voxels.
_OBLIQUE = np.radians(1.0)

PLANES = ("sagittal", "coronal", "axial")  # across x, y and z


@dataclass(frozen=True, slots=True)
class View:
    """How volumes of one grid are shown."""

    orientation: FloatArray  # nibabel's, (3, 2)
    box: tuple[slice, slice, slice]  # in the turned grid
    affine: FloatArray  # of the turned and cut grid, (4, 4)
    inside: BoolArray  # the mask, turned and cut
    oblique: bool

    @property
    def sizes(self) -> tuple[float, float, float]:
        """Of voxels, mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        x, y, z = self.inside.shape
        return x, y, z

    def of(self, volume: AnyArray) -> AnyArray:
        """Turn and cut a volume (x, y, z) of the grid."""
        return np.asarray(apply_orientation(volume, self.orientation))[self.box]

    def millimetres(self, axis: int, index: int) -> float:
        """Where a slice lies along its axis, through the middle of the brain."""
        voxel = (np.array(self.shape) - 1) / 2
        voxel[axis] = index
        return float(self.affine[axis, :3] @ voxel + self.affine[axis, 3])

    def voxel_of(self, mm: AnyArray) -> list[int]:
        """The voxel nearest to a place, in the turned and cut grid."""
        voxel = np.linalg.solve(self.affine[:3, :3], np.asarray(mm) - self.affine[:3, 3])
        return [int(v) for v in np.clip(np.rint(voxel), 0, np.array(self.shape) - 1)]


def view_of(affine: FloatArray, inside: BoolArray) -> View:
    """Return how volumes on a grid are shown.

    Parameters
    ----------
    affine : (4, 4) array
        Voxel indices to mm.
    inside : (x, y, z) bool array
        The mask.
    """
    orientation = io_orientation(affine)
    if not np.isfinite(orientation).all():  # an axis of no length
        affine = np.eye(4)
        orientation = io_orientation(affine)
    turned = affine @ inv_ornt_aff(orientation, inside.shape)
    mask = np.asarray(apply_orientation(inside, orientation)).astype(bool)
    box = _box(mask)
    shift = np.eye(4)
    shift[:3, 3] = [one.start for one in box]
    cosines = turned[:3, :3] / np.linalg.norm(turned[:3, :3], axis=0)
    angle = np.arccos(np.clip(np.diag(cosines), -1, 1)).max()
    return View(orientation, box, turned @ shift, mask[box], bool(angle > _OBLIQUE))


def _box(mask: BoolArray) -> tuple[slice, slice, slice]:
    found = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        there = np.flatnonzero(mask.any(axis=others))
        if not there.size:
            there = np.arange(mask.shape[axis])
        start, stop = max(0, there[0] - _MARGIN), min(mask.shape[axis], there[-1] + 1 + _MARGIN)
        found.append(slice(int(start), int(stop)))
    x, y, z = found
    return x, y, z
