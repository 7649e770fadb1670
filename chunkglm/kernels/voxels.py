"""Which voxels of a volume are fitted, and their series taken out of a block of volumes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from chunkglm._types import AnyArray, BoolArray, FloatArray, IntArray
from chunkglm.kernels.smoothing import BAND, VolumeSmoother, axis_smoother, kernel_radius

# Turned at once: a core's second cache, of 1 MB, holds it twice, as it comes and as it is turned. A
# block of 25 volumes of 64 x 76 takes two thirds of the time that it takes four planes at once;
# pieces smaller than a plane would have the threads of a conversion wait for one another at each.
_TURNED_BYTES = 384 << 10
# Bytes. Rows a whole number of pages apart would compete for the same lines of the first cache.
_LINE, _PAGE = 64, 4096


@dataclass(frozen=True, slots=True)
class SmoothedPart:
    """A few planes of a selection whose volumes are smoothed."""

    planes: slice  # that are needed, of the block handed in
    voxels: slice  # that come of them, of the selection's
    smoother: VolumeSmoother
    index: IntArray  # (V',), into what the smoother makes, flattened

    def series(
        self,
        block: AnyArray,
        out: FloatArray,
        memory: FloatArray | None = None,
        kept: IntArray | None = None,
    ) -> None:
        """Series of the voxels of this part.

        Parameters
        ----------
        block : (t, z, y, x) array
            As for `VoxelSelection.series`; fastest where it is C-contiguous.
        out : (t, V') array
            Overwritten.
        memory : (n,) float64 array, optional
            For the smoother's workspace, overwritten.
        kept : (n,) int array, optional
            Volumes of the block that are wanted; the other rows of `out` stay as they are.
        """
        volumes: Iterable[AnyArray] = block[:, self.planes]
        rows: Iterable[FloatArray] = out
        if kept is not None and kept.size < len(block):
            volumes, rows = (block[t, self.planes] for t in kept), (out[t] for t in kept)
        made = self.smoother.smoothed(volumes, self.smoother.workspace(memory))
        for volume, row in zip(made, rows, strict=True):
            np.take(volume.reshape(-1), self.index, out=row, mode="clip")


@dataclass(frozen=True, slots=True)
class VoxelSelection:
    """The voxels of a range of planes, and how their series are taken from blocks of volumes.

    Voxels are in the order in which NIfTI holds them: x fastest, then y, then z.
    """

    planes: range  # planes that the blocks handed in hold, a smoothing halo included
    shape: tuple[int, int]  # (y, x) of a plane
    index: IntArray  # (V,), into a block's flattened (z, y, x)
    smoothed: tuple[SmoothedPart, ...] = ()  # all voxels, when volumes are smoothed first

    @property
    def n_voxels(self) -> int:
        """Number of voxels V."""
        return int(self.index.size)

    @property
    def workspace_numbers(self) -> int:
        """Numbers of the largest workspace of its parts."""
        shapes = (part.smoother.workspace_shapes() for part in self.smoothed)
        return max((sum(map(prod, some)) for some in shapes), default=0)

    def series(
        self, block: AnyArray, out: AnyArray | None = None, kept: IntArray | None = None
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
        kept : (n,) int array, optional
            Volumes of the block that are wanted: no other is smoothed.

        Returns
        -------
        (t, V) array
            In the block's dtype; float64 when smoothed, and then anything in volumes that are not
            wanted.
        """
        n_volumes = block.shape[0]
        if not self.smoothed:
            if is_view(block):
                z, y, x = np.unravel_index(self.index, (len(self.planes), *self.shape))
                rows = np.ravel_multi_index((x, y, z), block.shape[:0:-1])
                return block.T.reshape(-1, n_volumes)[rows].T
            return np.take(block.reshape(n_volumes, -1), self.index, axis=1, out=out, mode="clip")
        # In one go: a transposed view is reordered once, not once a part.
        volumes = np.ascontiguousarray(block)
        found = np.empty((n_volumes, self.n_voxels)) if out is None else out
        memory = np.empty(self.workspace_numbers)
        for part in self.smoothed:
            part.series(volumes, found[:, part.voxels], memory, kept)
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
        return VoxelSelection(wanted, (n_y, n_x), np.flatnonzero(part))
    found = _extent(part, 0)
    used = range(found.start + wanted.start, found.stop + wanted.start)
    planes = _with_halo(used, sigma[2], n_z)
    parts: list[SmoothedPart] = []
    first = 0
    for start in range(used.start, used.stop, BAND):
        some = range(start, min(start + BAND, used.stop))
        if volume[some.start : some.stop].any():
            parts.append(_smoothed_part(volume, some, sigma, planes, first))
            first = parts[-1].voxels.stop
    index = np.flatnonzero(part) + (wanted.start - planes.start) * n_y * n_x
    return VoxelSelection(planes, (n_y, n_x), index, tuple(parts))


def _smoothed_part(
    volume: BoolArray,
    wanted: range,
    sigma: tuple[float, float, float],
    planes: range,
    first: int,
) -> SmoothedPart:
    """The voxels of some planes, taken out of `planes`; the first has the number `first`."""
    n_z, n_y, n_x = volume.shape
    part = volume[wanted.start : wanted.stop]
    wanted_y, wanted_x = _extent(part, 1), _extent(part, 2)
    halo = _with_halo(wanted, sigma[2], n_z)
    smoother = VolumeSmoother(
        axis_smoother(n_z, sigma[2], wanted, halo),
        axis_smoother(n_y, sigma[1], wanted_y, range(n_y)),
        axis_smoother(n_x, sigma[0], wanted_x, range(n_x)),
    )
    made = np.zeros(smoother.made, dtype=bool)
    box = part[:, wanted_y.start : wanted_y.stop, wanted_x.start : wanted_x.stop]
    made[tuple(map(slice, box.shape))] = box
    index = np.flatnonzero(made)
    needed = slice(halo.start - planes.start, halo.stop - planes.start)
    return SmoothedPart(needed, slice(first, first + index.size), smoother, index)


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
    mask : (..., z) bool array

    Returns
    -------
    (..., z) array
    """
    volume = np.ascontiguousarray(mask.T)
    n_voxels = int(np.count_nonzero(volume))
    numbers = np.full(volume.shape, n_voxels, dtype=np.intp)
    numbers[volume] = np.arange(n_voxels)
    return np.ascontiguousarray(numbers.T)


def placed(parts: Sequence[AnyArray], numbers: IntArray, fill: float) -> AnyArray:
    """Put values of voxels where they belong; each cell of the grid fetches its own.

    Map by map, which writes in order and reads from a core's cache: five times 20 maps of 64 x 64
    x 30 take two threads 12 ms, where joining the parts of all maps first takes 23, and setting
    the voxels of arrays that were filled before longer still.

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
    leading, dtype = parts[0].shape[:-1], parts[0].dtype
    out = np.empty((*leading, *numbers.shape), dtype)
    values = np.empty(sum(part.shape[-1] for part in parts) + 1, dtype)
    values[-1] = fill
    for i in np.ndindex(*leading):
        np.concatenate([part[i] for part in parts], out=values[:-1])
        np.take(values, numbers, out=out[i], mode="clip")
    return out
