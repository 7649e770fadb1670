"""Which voxels of a volume are fitted, and their series taken out of a block of volumes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chunkglm._types import AnyArray, BoolArray, FloatArray, IntArray
from chunkglm.kernels.smoothing import VolumeSmoother, Workspace, axis_smoother, kernel_radius

# Turned at once: what a core's second cache holds. Smaller pieces take as long by themselves, but
# the threads of a conversion wait for one another at each.
_TURNED_BYTES = 1 << 20
# Bytes. Rows a whole number of pages apart would compete for the same lines of the first cache.
_LINE, _PAGE = 64, 4096


@dataclass(frozen=True, slots=True)
class VoxelSelection:
    """The voxels of a range of planes, and how their series are taken from blocks of volumes.

    Voxels are in the order in which NIfTI holds them: x fastest, then y, then z.
    """

    planes: range  # planes that the blocks handed in hold, a smoothing halo included
    shape: tuple[int, int]  # (y, x) of a plane
    index: IntArray  # (V,), into a block's flattened (z, y, x), or into the smoothed box
    smoother: VolumeSmoother | None

    @property
    def n_voxels(self) -> int:
        """Number of voxels V."""
        return int(self.index.size)

    def series(
        self,
        block: AnyArray,
        out: AnyArray | None = None,
        workspace: Workspace | None = None,
    ) -> AnyArray:
        """Series of the selected voxels.

        Parameters
        ----------
        block : (t, z, y, x) array
            Volumes as they lie in a NIfTI file, the planes `planes`; or a transposed view of
            (x, y, z, t) data, whose series are then taken without moving the rest.
        out : (t, V) array, optional
            Overwritten; in the block's dtype, float64 when smoothed. Not for transposed views
            that are not smoothed.
        workspace : Workspace, optional
            Of the smoother.

        Returns
        -------
        (t, V) array
            In the block's dtype; float64 when smoothed.
        """
        n_volumes = block.shape[0]
        if self.smoother is None:
            if is_view(block):
                z, y, x = np.unravel_index(self.index, (len(self.planes), *self.shape))
                rows = np.ravel_multi_index((x, y, z), block.shape[:0:-1])
                return block.T.reshape(-1, n_volumes)[rows].T
            return np.take(block.reshape(n_volumes, -1), self.index, axis=1, out=out, mode="clip")
        # In one go: a transposed view is reordered once, not once a volume.
        volumes = np.ascontiguousarray(block)
        found = np.empty((n_volumes, self.n_voxels)) if out is None else out
        if workspace is None:
            workspace = self.smoother.workspace()
        plane = self.smoother.y.n_out * self.smoother.x.n_out
        edges = [p.out.start * plane for p in self.smoother.z.products]
        parts = np.split(self.index, np.searchsorted(self.index, edges[1:]))
        within = [index - first for index, first in zip(parts, edges, strict=True)]
        stops = np.cumsum([index.size for index in within]).tolist()
        for volume, row in zip(volumes, found, strict=True):
            bands = self.smoother.bands(volume, workspace)
            for (_, band), index, stop in zip(bands, within, stops, strict=True):
                np.take(band.reshape(-1), index, out=row[stop - index.size : stop], mode="clip")
        return found


def is_view(block: AnyArray) -> bool:
    """Whether a block of volumes (t, z, y, x) is a view of series, time contiguous."""
    return bool(block.T.flags.c_contiguous) and not block.flags.c_contiguous


def select_voxels(
    mask: BoolArray, wanted: range, sigma: tuple[float, float, float] | None
) -> VoxelSelection:
    """Select the voxels of a mask in a range of planes.

    Parameters
    ----------
    mask : (x, y, z) bool array
        The whole mask.
    wanted : range
        Planes whose voxels are selected; at least one voxel.
    sigma : tuple of three floats or None
        Smoothing along x, y and z in voxels.

    Returns
    -------
    VoxelSelection
    """
    volume = mask.T  # (z, y, x), so that x runs fastest
    n_z, n_y, n_x = volume.shape
    part = volume[wanted.start : wanted.stop]
    if sigma is None:
        return VoxelSelection(wanted, (n_y, n_x), np.flatnonzero(part), None)
    sigma_x, sigma_y, sigma_z = sigma
    box_z, box_y, box_x = (_extent(part, axis) for axis in range(3))
    box_z = range(box_z.start + wanted.start, box_z.stop + wanted.start)
    planes = _with_halo(box_z, sigma_z, n_z)
    smoother = VolumeSmoother(
        axis_smoother(n_z, sigma_z, box_z, planes),
        axis_smoother(n_y, sigma_y, box_y, _with_halo(box_y, sigma_y, n_y)),
        axis_smoother(n_x, sigma_x, box_x, _with_halo(box_x, sigma_x, n_x)),
    )
    box = volume[box_z.start : box_z.stop, box_y.start : box_y.stop, box_x.start : box_x.stop]
    return VoxelSelection(planes, (n_y, n_x), np.flatnonzero(box), smoother)


def _extent(volume: BoolArray, axis: int) -> range:
    """First to last position of an axis at which the mask holds a voxel."""
    others = tuple(a for a in range(3) if a != axis)
    used = np.flatnonzero(volume.any(axis=others))
    return range(int(used[0]), int(used[-1]) + 1)


def _with_halo(wanted: range, sigma: float, n: int) -> range:
    halo = kernel_radius(sigma)
    return range(max(0, wanted.start - halo), min(n, wanted.stop + halo))


def time_last(block: AnyArray, out: AnyArray) -> None:
    """Turn volumes as NIfTI holds them into series, time contiguous.

    Parameters
    ----------
    block : (t, z, y, x) array
    out : (x, y, z, t) array
        Overwritten; its last axis contiguous, in the machine's byte order.
    """
    n_t, n_z, n_y, n_x = block.shape
    size = out.dtype.itemsize
    deep = min(n_z, max(1, _TURNED_BYTES // max(1, n_t * n_y * n_x * size)))
    # Gathered so that the rows begin in other lines of the cache, transposed, and each series then
    # moved as one item: int16 takes 0.7 ns a sample, where one transposing copy jumps through
    # memory for 2 to 4 ns.
    n = deep * n_y * n_x
    rows = np.empty((n_t, n + (_LINE - n * size) % _PAGE // size), out.dtype)
    series = np.empty((n, n_t), out.dtype)
    whole = np.dtype((np.void, n_t * size))
    for z in range(0, n_z, deep):
        part = block[:, z : z + deep]
        n = part[0].size
        rows[:, :n].reshape(part.shape)[...] = part
        series[:n] = rows[:, :n].T
        items = series[:n].view(whole).reshape(part.shape[1:])
        out.view(whole)[:, :, z : z + deep, 0] = items.T


def scatter(values: FloatArray, mask: BoolArray, fill: float = np.nan) -> AnyArray:
    """Put values of selected voxels back where they belong.

    Parameters
    ----------
    values : (..., V) array
    mask : (x, y, z) bool array
        With V voxels set.
    fill : float
        Value elsewhere.

    Returns
    -------
    (..., x, y, z) array
        C-contiguous.
    """
    return placed([values], numbers_of(mask), fill)


def numbers_of(mask: BoolArray) -> IntArray:
    """Number of each voxel of a mask, x fastest, then y, then z; V in all that are not in it.

    Parameters
    ----------
    mask : (x, y, z) bool array

    Returns
    -------
    (x, y, z) array
    """
    volume = np.ascontiguousarray(mask.T)
    n_voxels = int(np.count_nonzero(volume))
    numbers = np.full(volume.shape, n_voxels, dtype=np.intp)
    numbers[volume] = np.arange(n_voxels)
    return np.ascontiguousarray(numbers.T)


def placed(parts: Sequence[AnyArray], numbers: IntArray, fill: float) -> AnyArray:
    """Put values of voxels where they belong; each cell of the grid fetches its own.

    One pass that writes in order: 20 maps of 64 x 64 x 30 take 12 ms, where setting the voxels of
    arrays that were filled before takes 20.

    Parameters
    ----------
    parts : sequence of (..., n) arrays
        Of consecutive voxels, V together.
    numbers : (x, y, z) array
        From `numbers_of`.
    fill : float
        Value of the cells that are no voxel.

    Returns
    -------
    (..., x, y, z) array
        C-contiguous.
    """
    leading = parts[0].shape[:-1]
    n_voxels = sum(part.shape[-1] for part in parts)
    values = np.empty((*leading, n_voxels + 1), dtype=parts[0].dtype)
    np.concatenate(parts, axis=-1, out=values[..., :-1])
    values[..., -1] = fill
    out = np.empty((*leading, *numbers.shape), dtype=values.dtype)
    return np.take(values, numbers, axis=-1, out=out, mode="clip")
