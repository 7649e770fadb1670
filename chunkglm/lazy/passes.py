"""One pass over a run on disk: blocks of bounded size, added up as they are read."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np

from chunkglm._types import AnyArray, RunSource
from chunkglm.blocks import (
    block_volumes,
    smoothed_volumes,
    source_block,
    summed_volumes,
)
from chunkglm.kernels.factor import ShiftedBasis
from chunkglm.kernels.moments import Moments, no_moments, put_in_units
from chunkglm.kernels.voxels import VoxelSelection, is_view
from chunkglm.lazy.blas import one_blas_thread
from chunkglm.lazy.collecting import Collector, Smoothed, Sums
from chunkglm.lazy.runs import scaled, scaled_dtype
from chunkglm.sizes import even_blocks

TILE_VOLUMES = 32


def moments_in_one_pass(
    source: RunSource, selection: VoxelSelection, basis: ShiftedBasis
) -> Moments:
    """Read a run forwards, once, and add up the moments of the selected voxels.

    Parameters
    ----------
    source : RunSource
    selection : VoxelSelection
    basis : ShiftedBasis

    Returns
    -------
    Moments
        In the units of the scaled run.
    """
    moments = no_moments(selection.n_voxels, basis)
    with one_blas_thread():
        for part, voxels in _parts(source, selection):
            _add_pass(Sums(moments.of_voxels(voxels), basis, part), source, part)
    if _is_integer(source):
        # In place: 10 MB of a run's sums are not copied, and no fresh pages touched.
        put_in_units(moments, source.slope, source.intercept)
    return moments


def handed_on(source: RunSource) -> np.dtype[Any]:
    """In which dtype samples are smoothed or collected.

    Integers are added up as stored and scaled once at the end; floats are scaled first: what is not
    finite counts as 0 of the scaled values when smoothing.
    """
    return source.dtype if _is_integer(source) else scaled_dtype(source)


def _is_integer(source: RunSource) -> bool:
    return source.dtype.kind in "iub"


def _parts(source: RunSource, selection: VoxelSelection) -> Iterator[tuple[VoxelSelection, slice]]:
    """What one chunk of planes after the other holds; all in one where smoothing joins planes."""
    pieces = _within_chunks(source, selection.planes)
    if selection.smoothed or len(pieces) == 1:
        yield selection, slice(0, selection.n_voxels)
        return
    plane = selection.shape[0] * selection.shape[1]
    for planes in pieces:
        start = planes.start - selection.planes.start
        edges = [start * plane, (start + len(planes)) * plane]
        first, stop = np.searchsorted(selection.index, edges).tolist()
        if first < stop:
            index = selection.index[first:stop] - start * plane
            part = VoxelSelection(planes, selection.shape, index)
            yield part, slice(first, stop)


def _within_chunks(source: RunSource, planes: range) -> list[range]:
    """Planes cut where the chunks of a store are; a file has none."""
    unit = source.chunks[2]
    if source.forward_only or unit >= source.shape[2]:
        return [planes]
    starts = range(planes.start // unit * unit, planes.stop, unit)
    return [range(max(planes.start, a), min(planes.stop, a + unit)) for a in starts]


def _add_pass(sums: Sums, source: RunSource, selection: VoxelSelection) -> None:
    """Add all of a run's volumes to sums, and finish them."""
    n_scans, volume = source.shape[3], _volume_bytes(source, selection.planes)
    rank, n_lags, dtype = sums.basis.rank, sums.basis.n_lags, handed_on(source)
    n_volumes = block_volumes(selection.n_voxels, n_scans, volume)
    added: Smoothed | Collector
    if selection.smoothed:
        handed = volume // source.dtype.itemsize * dtype.itemsize
        n_volumes = smoothed_volumes(n_volumes, n_scans, rank, n_lags, handed)
        added = Smoothed(sums, selection, n_volumes)
    else:
        length = summed_volumes(n_volumes, n_scans, rank, n_lags)
        added = Collector(sums, selection, n_scans, length, dtype)
    with closing(added):
        for _, block in _blocks(source, selection.planes, n_volumes):
            # A store's block of time may be longer than what is held as float64 at once; series
            # not smoothed are gathered as they lie there, and only whole blocks are contiguous.
            whole = not selection.smoothed and is_view(block)
            for part in even_blocks(len(block), len(block) if whole else n_volumes):
                values = block[part.start : part.stop]
                added.add(values if _is_integer(source) else scaled(values, source))
        added.finish()


def _blocks(source: RunSource, planes: range, n_volumes: int) -> Iterator[tuple[int, AnyArray]]:
    """Blocks of time of some planes; a block may be overwritten by the next.

    Chunks of a store are read one at a time: zarr decodes all that a request asks for at once, in
    threads of its own that keep the memory.
    """
    x, y, _, n_scans = source.shape
    length = n_volumes
    if not source.forward_only:
        length = source_block(n_volumes, source.chunks[3], _volume_bytes(source, planes))
    pieces = _within_chunks(source, planes)
    if len(pieces) == 1:
        yield from _blocks_of_piece(source, planes, n_volumes, length)
        return
    readers = [_blocks_of_piece(source, piece, n_volumes, length) for piece in pieces]
    out = np.empty((length, len(planes), y, x), source.dtype)
    for first in range(0, n_scans, length):
        volumes = out[: n_scans - first]
        for piece, reader in zip(pieces, readers, strict=True):
            start = piece.start - planes.start
            _copy_volumes(next(reader)[1], volumes[:, start : start + len(piece)])
        yield first, volumes


def _blocks_of_piece(
    source: RunSource, planes: range, n_volumes: int, length: int
) -> Iterator[tuple[int, AnyArray]]:
    if length % source.chunks[3] == 0 or source.forward_only:
        yield from source.blocks(planes, n_volumes)
        return
    # Chunks too long to be held: parts of them, at the price of decoding them again.
    n_scans = source.shape[3]
    for first in range(0, n_scans, length):
        yield first, source.read(planes, first, min(first + length, n_scans))


def _copy_volumes(block: AnyArray, out: AnyArray) -> None:
    """Turn series into volumes: both (t, z, y, x), but `block` a view of time-contiguous data."""
    # Tiles that a core's first cache holds, as in `time_last`: a third of one copy's time.
    for z in range(block.shape[1]):
        for y in range(block.shape[2]):
            for t in range(0, block.shape[0], TILE_VOLUMES):
                out[t : t + TILE_VOLUMES, z, y] = block[t : t + TILE_VOLUMES, z, y]


def _volume_bytes(source: RunSource, planes: range) -> int:
    x, y = source.shape[:2]
    return x * y * len(planes) * source.dtype.itemsize
