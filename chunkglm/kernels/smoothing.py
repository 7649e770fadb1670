"""Gaussian smoothing: of runs by banded products, only where needed; of maps, within a mask."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from chunkglm._types import AnyArray, BoolArray, FloatArray

# Full width at half maximum over standard deviation, sqrt(8 ln 2).
FWHM_PER_SIGMA = float(np.sqrt(8.0 * np.log(2.0)))

# Standard deviations after which the kernel is cut, as scipy's and nilearn's default.
TRUNCATE = 4.0

# Output positions per product. The kernel of 5 mm at 2 mm voxels reaches 4 voxels, so 8 outputs
# need 16 inputs of 91, and 8 numbers are what a core multiplies at once; bands of 4 take as long,
# of 16 up to 1.4 times.
BAND = 8

# Numbers converted to float64 and smoothed along z at once: they and what comes of them stay in a
# core's second cache.
NUMBERS_AT_ONCE = 48_000


def sigma_in_voxels(fwhm: float, affine: FloatArray) -> tuple[float, float, float]:
    """Standard deviation of the kernel along each voxel axis.

    Parameters
    ----------
    fwhm : float
        Full width at half maximum, mm.
    affine : (4, 4) array
        Voxel to mm; voxel sizes are the lengths of its columns.

    Returns
    -------
    tuple of three floats
        In voxels, for x, y and z.
    """
    sizes = np.sqrt((np.asarray(affine, dtype=np.float64)[:3, :3] ** 2).sum(axis=0))
    x, y, z = (float(s) for s in fwhm / (FWHM_PER_SIGMA * sizes))
    return x, y, z


def kernel_radius(sigma: float) -> int:
    """Voxels that the kernel reaches to either side."""
    return int(TRUNCATE * sigma + 0.5)


def axis_weights(n: int, sigma: float) -> FloatArray:
    """Weights with which the positions of an axis make the smoothed ones.

    Parameters
    ----------
    n : int
        Length of the axis; beyond its ends the data count as reflected (d c b a | a b c d).
    sigma : float
        In voxels; 0 leaves the axis as it is.

    Returns
    -------
    (n, n) array
        One row per smoothed position: what ``scipy.ndimage.gaussian_filter1d`` makes of the
        identity, which is not asked because loading that package takes half as long as smoothing a
        run.
    """
    radius = kernel_radius(sigma)
    if radius == 0:
        return np.eye(n)
    reach = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 / (sigma * sigma) * reach**2)
    kernel /= kernel.sum()
    positions = np.arange(n)[:, np.newaxis]
    unfolded = (positions + reach) % (2 * n)  # an axis and its reflection, again and again
    weights = np.zeros((n, n))
    np.add.at(weights, (positions, np.minimum(unfolded, 2 * n - 1 - unfolded)), kernel)
    return weights


@dataclass(frozen=True, slots=True)
class AxisSmoother:
    """One axis of the kernel, for a range of output positions.

    Bands of outputs are products with windows of the axis, all of one shape, so that one call makes
    them all; what a window holds beyond the data is 0, and so are the weights there.
    """

    matrices: FloatArray  # (n_bands, band, window)
    n_out: int  # positions wanted; the last band may make more
    into: slice  # what is used of the positions that are available
    before: int  # zeros before it in the first window

    @property
    def n_made(self) -> int:
        """Positions that are made, at least `n_out`."""
        n_bands, band, _ = map(int, self.matrices.shape)
        return n_bands * band

    @property
    def n_padded(self) -> int:
        """Positions that all windows cover."""
        n_bands, band, window = map(int, self.matrices.shape)
        return (n_bands - 1) * band + window

    @property
    def inside(self) -> slice:
        """Where the data lie within what the windows cover."""
        return slice(self.before, self.before + self.into.stop - self.into.start)

    def windows(self, data: FloatArray, axis: int) -> FloatArray:
        """Views (n_bands, ..., window, ...) of data whose `axis` has `n_padded` positions."""
        _, band, window = self.matrices.shape
        found = sliding_window_view(data, window, axis=axis)
        bands = np.moveaxis(found, axis, 0)[::band]
        return np.moveaxis(bands, -1, axis + 1)

    def bands(self, data: FloatArray, axis: int) -> FloatArray:
        """Views (n_bands, ..., band, ...) of data whose `axis` has `n_made` positions."""
        shape = (*data.shape[:axis], *self.matrices.shape[:2], *data.shape[axis + 1 :])
        return np.moveaxis(data.reshape(shape), axis, 0)


def axis_smoother(n: int, sigma: float, wanted: range, available: range) -> AxisSmoother:
    """Prepare one axis.

    Parameters
    ----------
    n : int
        Length of the whole axis; the kernel is reflected at its ends.
    sigma : float
        In voxels; 0 leaves the axis as it is.
    wanted, available : range
        Positions to compute, and positions that the data handed in hold.

    Returns
    -------
    AxisSmoother

    Raises
    ------
    ValueError
        When a wanted position needs data that are not available.
    """
    weights = axis_weights(n, sigma)[wanted.start : wanted.stop]
    used = np.flatnonzero(weights.any(axis=0))
    first, stop = int(used[0]), int(used[-1]) + 1
    if first < available.start or stop > available.stop:
        msg = f"positions {first}..{stop} are needed, but only {available} are at hand"
        raise ValueError(msg)
    into = slice(first - available.start, stop - available.start)
    # Reflected positions are never farther away than the kernel reaches.
    radius = kernel_radius(sigma)
    window = BAND + 2 * radius
    if window >= stop - first:
        matrices = np.ascontiguousarray(weights[np.newaxis, :, first:stop])
        return AxisSmoother(matrices, len(wanted), into, 0)
    n_bands = -(-len(wanted) // BAND)
    padded = np.zeros((n_bands * BAND, (n_bands - 1) * BAND + window))
    before = first - (wanted.start - radius)
    padded[: len(wanted), before : before + stop - first] = weights[:, first:stop]
    starts = range(0, n_bands * BAND, BAND)
    matrices = np.stack([padded[a : a + BAND, a : a + window] for a in starts])
    return AxisSmoother(matrices, len(wanted), into, before)


class Workspace(NamedTuple):
    """Memory to smooth in again and again, by one thread: fresh pages cost more than smoothing."""

    taken: FloatArray  # (z, y, x) some rows of all planes, as float64
    deep: FloatArray  # (z', y, x) planes smoothed along z
    down: FloatArray  # (z', y', x) and y
    across: FloatArray  # (z', y', x') and x


@dataclass(frozen=True, slots=True)
class VolumeSmoother:
    """Smooths volumes (z, y, x), producing only a box of them from what it needs of them.

    Meant for a few planes at a time: what comes of them stays in a core's second cache.
    """

    z: AxisSmoother
    y: AxisSmoother
    x: AxisSmoother

    @property
    def made(self) -> tuple[int, int, int]:
        """Shape (z', y', x') of the box that is made: what is wanted comes first in each axis."""
        return self.z.n_made, self.y.n_made, self.x.n_made

    def workspace_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Shapes of a workspace's arrays."""
        n_z, n_y, n_x = (axis.n_padded for axis in (self.z, self.y, self.x))
        rows = max(1, min(n_y, NUMBERS_AT_ONCE // (n_z * n_x)))
        out_z, out_y, out_x = self.made
        return (n_z, rows, n_x), (out_z, n_y, n_x), (out_z, out_y, n_x), (out_z, out_y, out_x)

    def workspace(self, memory: FloatArray | None = None) -> Workspace:
        """Lay out a workspace, in memory that others may have used before.

        Parameters
        ----------
        memory : (n,) array, optional
            Of as many numbers as `workspace_shapes` hold.
        """
        shapes = self.workspace_shapes()
        stops = np.cumsum([prod(shape) for shape in shapes]).tolist()
        memory = np.empty(stops[-1]) if memory is None else memory[: stops[-1]]
        memory[:] = 0.0  # around the data, see `AxisSmoother`
        parts = np.split(memory, stops[:-1])
        return Workspace(*(p.reshape(shape) for p, shape in zip(parts, shapes, strict=True)))

    def __call__(self, volume: AnyArray) -> FloatArray:
        """Smooth one volume into an array of its own.

        Returns
        -------
        (z', y', x') float64 array
            Only what is wanted.
        """
        for made in self.smoothed(volume[np.newaxis], self.workspace()):
            found = made[: self.z.n_out, : self.y.n_out, : self.x.n_out].copy()
        return found

    def smoothed(self, volumes: Iterable[AnyArray], workspace: Workspace) -> Iterator[FloatArray]:
        """Smooth volumes, one after the other.

        Parameters
        ----------
        volumes : iterable of (z, y, x) arrays
            The planes that are available, whole; any real dtype. Samples that are not finite count
            as 0.
        workspace : Workspace
            Overwritten.

        Yields
        ------
        (z', y', x') float64 array
            What is made, see `made`; overwritten by the next.
        """
        taken, deep, down, across = workspace
        flat, rows = taken.reshape(len(taken), -1), taken.shape[1]
        from_z, to_z = self.z.windows(flat, 0), self.z.bands(deep.reshape(len(deep), -1), 0)
        from_y, to_y = self.y.windows(deep, 1), self.y.bands(down, 1)
        lines, made = down.reshape(-1, down.shape[2]), across.reshape(-1, across.shape[2])
        from_x, to_x = self.x.windows(lines, 1), self.x.bands(made, 1)
        # A matrix that lies as it is used: products with transposed views take four times as long.
        matrices_y = self.y.matrices[:, np.newaxis]
        matrices_x = np.ascontiguousarray(np.swapaxes(self.x.matrices, 1, 2))
        inside, width = taken[self.z.inside, :, self.x.inside], taken.shape[2]
        for volume in volumes:
            available = volume[self.z.into, self.y.into, self.x.into]
            for first in range(0, available.shape[1], rows):
                values = available[:, first : first + rows]
                n_rows = values.shape[1]
                _copy_finite(values, inside[:, :n_rows])
                start = (self.y.before + first) * width
                n = n_rows * width
                np.matmul(self.z.matrices, from_z[..., :n], out=to_z[..., start : start + n])
            np.matmul(matrices_y, from_y, out=to_y)
            np.matmul(from_x, matrices_x, out=to_x)
            yield across


def _copy_finite(values: AnyArray, out: FloatArray) -> None:
    np.copyto(out, values)
    if values.dtype.kind == "f" and not np.isfinite(out.sum()):
        out[~np.isfinite(out)] = 0.0


def smooth_within(
    maps: FloatArray, counts: BoolArray, sigma: tuple[float, float, float]
) -> FloatArray:
    """Means of maps over neighbouring voxels, weighted by a Gaussian.

    Parameters
    ----------
    maps : (n, x, y, z) array
    counts : (x, y, z) bool array
        Voxels that contribute; what the others hold does not matter.
    sigma : tuple of three floats
        Standard deviation of the kernel in voxels.

    Returns
    -------
    (n, x, y, z) array
        NaN where no voxel within reach contributes. A mean over the voxels that contribute, so that
        the border of a mask pulls nothing toward 0.
    """
    from scipy.ndimage import gaussian_filter  # 0.03 s to load, for few

    def smooth(values: FloatArray) -> FloatArray:
        return gaussian_filter(values, sigma, mode="constant", truncate=TRUNCATE)

    weight = smooth(counts.astype(np.float64))
    out = np.empty(maps.shape)
    for i, values in enumerate(maps):
        sums = smooth(np.where(counts, values, 0.0))
        out[i] = np.divide(sums, weight, out=np.full(sums.shape, np.nan), where=weight > 0)
    return out
