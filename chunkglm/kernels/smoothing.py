"""Gaussian smoothing: of runs by banded products, only where needed; of maps, within a mask."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from chunkglm._types import AnyArray, BoolArray, FloatArray

# Full width at half maximum over standard deviation, sqrt(8 ln 2).
FWHM_PER_SIGMA = float(np.sqrt(8.0 * np.log(2.0)))

# Standard deviations after which the kernel is cut, as scipy's and nilearn's default.
TRUNCATE = 4.0

# Output positions per product. The kernel of 5 mm at 2 mm voxels reaches 4 voxels, so 8 outputs
# need 16 inputs of 91, and 8 numbers are what a core multiplies at once: an axis of 91 x 109 x 91
# takes 1.1 ms, of 64 x 64 x 30 0.09 ms; bands of 4 or 16 up to twice and 1.3 times as long.
BAND = 8

# Of planes that are smoothed along y and x together, in float64: a core's second cache.
PLANES_IN_CACHE = 1_000_000


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


class Product(NamedTuple):
    """Rows `out` of the smoothed axis from positions `into` of the unsmoothed one."""

    out: slice
    into: slice
    matrix: FloatArray


@dataclass(frozen=True, slots=True)
class AxisSmoother:
    """One axis of the kernel, for a range of output positions."""

    products: tuple[Product, ...]
    n_out: int
    available: range


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
    whole = np.eye(n)
    if sigma > 0:
        # scipy's own filter on the identity: the same kernel, cut and edges by construction.
        whole = gaussian_filter1d(whole, sigma, axis=0, truncate=TRUNCATE)
    products = []
    for start in range(wanted.start, wanted.stop, BAND):
        stop = min(start + BAND, wanted.stop)
        used = np.flatnonzero(whole[start:stop].any(axis=0))
        first, last = int(used[0]), int(used[-1]) + 1
        if first < available.start or last > available.stop:
            msg = f"positions {first}..{last} are needed, but only {available} are at hand"
            raise ValueError(msg)
        products.append(
            Product(
                slice(start - wanted.start, stop - wanted.start),
                slice(first - available.start, last - available.start),
                np.ascontiguousarray(whole[start:stop, first:last]),
            )
        )
    return AxisSmoother(tuple(products), len(wanted), available)


class Workspace(NamedTuple):
    """Memory to smooth in again and again, by one thread: fresh pages cost more than smoothing."""

    taken: FloatArray  # planes of the volume, as float64
    down: FloatArray  # them, smoothed along y
    across: FloatArray  # (z, y' x'), all planes, smoothed along x too
    band: FloatArray  # some planes, smoothed


@dataclass(frozen=True, slots=True)
class VolumeSmoother:
    """Smooths volumes (z, y, x), producing only a box of them from what it needs of them."""

    z: AxisSmoother
    y: AxisSmoother
    x: AxisSmoother

    def workspace(self) -> Workspace:
        """Memory for one thread."""
        n_z, n_y, n_x = (len(axis.available) for axis in (self.z, self.y, self.x))
        at_once = min(n_z, self._planes_at_once())
        plane = self.y.n_out * self.x.n_out
        return Workspace(
            np.empty((at_once, n_y, n_x)),
            np.empty((at_once, self.y.n_out, n_x)),
            np.empty((n_z, plane)),
            np.empty((BAND, plane)),
        )

    def _planes_at_once(self) -> int:
        return max(BAND, PLANES_IN_CACHE // (8 * len(self.y.available) * len(self.x.available)))

    def __call__(self, volume: AnyArray) -> FloatArray:
        """Smooth one volume, as `bands` does, into an array of its own.

        Returns
        -------
        (z', y', x') float64 array
        """
        out = np.empty((self.z.n_out, self.y.n_out, self.x.n_out))
        for planes, band in self.bands(volume, self.workspace()):
            out[planes] = band.reshape(-1, *out.shape[1:])
        return out

    def bands(self, volume: AnyArray, workspace: Workspace) -> Iterator[tuple[slice, FloatArray]]:
        """Smooth one volume, a few planes at a time, so that they never leave a core's cache.

        Parameters
        ----------
        volume : (z, y, x) array
            The planes that are available, whole; any real dtype, C-contiguous for speed.
            Non-finite samples count as 0.
        workspace : Workspace
            Overwritten.

        Yields
        ------
        planes : slice
            Of the box that is produced.
        band : (z'', y' x') float64 array
            Them; overwritten by the next.
        """
        done, at_once = 0, self._planes_at_once()
        for out, into, matrix in self.z.products:
            while done < into.stop:
                stop = min(done + at_once, len(volume))
                self._planes(volume[done:stop], workspace, workspace.across[done:stop])
                done = stop
            band = workspace.band[: len(matrix)]
            yield out, np.matmul(matrix, workspace.across[into], out=band)

    def _planes(self, volume: AnyArray, workspace: Workspace, out: FloatArray) -> None:
        """Smooth planes along y and x."""
        taken = workspace.taken[: len(volume)]
        y, x = self.y.available, self.x.available
        np.copyto(taken, volume[:, y.start : y.stop, x.start : x.stop])
        if volume.dtype.kind == "f" and not np.isfinite(taken.sum()):
            taken[~np.isfinite(taken)] = 0.0
        down = workspace.down[: len(volume)]
        for rows, into, matrix in self.y.products:
            np.matmul(matrix, taken[:, into], out=down[:, rows])
        # Plane by plane, and by a matrix that lies as it is used: one product of all lines takes
        # four times as long, and so does one by a transposed view.
        across = out.reshape(*down.shape[:2], self.x.n_out)
        for rows, into, matrix in self.x.products:
            np.matmul(down[:, :, into], np.ascontiguousarray(matrix.T), out=across[:, :, rows])


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

    def smooth(values: FloatArray) -> FloatArray:
        return gaussian_filter(values, sigma, mode="constant", truncate=TRUNCATE)

    weight = smooth(counts.astype(np.float64))
    out = np.empty(maps.shape)
    for i, values in enumerate(maps):
        sums = smooth(np.where(counts, values, 0.0))
        out[i] = np.divide(sums, weight, out=np.full(sums.shape, np.nan), where=weight > 0)
    return out
