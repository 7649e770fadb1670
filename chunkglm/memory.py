"""Peak memory of a process, from sizes alone, in pure integers; nothing is read.

Every sum is of what is alive at once, with what the C library keeps of freed memory where that has
been measured. It is a ceiling: fresh processes are seen at 0.5 to 0.95 of it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from chunkglm.blocks import (
    block_volumes,
    smoothed_volumes,
    source_block,
    summed_volumes,
)
from chunkglm.sizes import BUFFERS_ALIVE, MAPS_BYTES, PROCESS_BYTES

# Blocks of a run that can only be read forwards: one used, one being filled or waiting.
BLOCKS_AHEAD = 2

# Blocks of a run that is any dask array: held, cut and joined by dask.
BLOCKS_OF_ARRAY = 4

# Chunks of a store for each task that reads it (one compressed, and decoded one for each of up to
# three slabs of the store that smoothing joins), and those that the C library keeps for zarr's
# threads.
CHUNKS_PER_READER, CHUNKS_KEPT = 4, 8

# Samples whose moments are added up at once, `kernels.summing.SAMPLES_IN_CACHE`.
SAMPLES_AT_ONCE = 400_000

# Threads of a task that add up, at most.
THREADS_ADDING = 2

# Numbers of 8 bytes for each voxel of the mask: its place in graph and coordinates; its solution,
# statistic, p and z while a slab is solved.
NUMBERS_IN_GRAPH, NUMBERS_SOLVING = 4, 24

# And for each voxel of the volume: the maps that wait for those of other runs.
NUMBERS_WAITING = 4

# Combining maps takes several times what is given to it.
TIMES_COMBINING = 4


class Reading(NamedTuple):
    """One task that reads a run and adds up moments."""

    n_voxels: int  # selected
    rank: int  # of the design
    n_lags: int
    moments: int  # bytes of its result
    n_volumes: int  # read at once
    n_summed: int  # added up at once
    blocks: int  # volumes held as they lie in the file
    volume: int  # bytes of the planes read of each volume, as they lie in the file
    series: int  # bytes of series, and of what they are made in
    chunk: int  # bytes of a store's chunk, 0 for a file
    forward_only: bool  # read once, by one task, for all slabs


class Smoothing(NamedTuple):
    """What the threads of a task that smooths hold."""

    threads: int
    largest: int  # voxels of the largest part
    numbers: int  # that one thread smooths in
    handed: int  # bytes of the planes of each volume, as they are handed on: floats when scaled


class Solving(NamedTuple):
    """One set of maps made of moments."""

    slabs: tuple[int, ...]  # voxels of each
    n_maps: int  # numbers for each voxel


def reading(
    *,
    n_voxels: int,
    rank: int,
    n_lags: int,
    moments: int,
    n_scans: int,
    volume: int,
    chunk_volumes: int,
    chunk: int,
    forward_only: bool,
    copies: int = 1,
    joined: int = 0,
    smoothing: Smoothing | None = None,
) -> Reading:
    """Sizes of a task that reads, from what it reads.

    Examples
    --------
    >>> run = dict(n_scans=191, volume=64 * 64 * 30 * 2, rank=12, n_lags=1)
    >>> task = reading(n_voxels=20_000, moments=240 * 20_000, **run, chunk_volumes=16, chunk=0,
    ...                forward_only=True)
    >>> task.n_volumes, task.n_summed, task.blocks
    (32, 32, 64)
    """
    n_volumes = block_volumes(n_voxels, n_scans, volume)
    n_summed = summed_volumes(n_volumes, n_scans, rank, n_lags)
    series = 8 * n_summed * n_voxels
    if smoothing is not None:
        threads, largest, numbers, handed = smoothing
        n_volumes = n_summed = smoothed_volumes(n_volumes, n_scans, rank, n_lags, handed)
        series = 8 * threads * (n_volumes * largest + numbers)
        series += n_volumes * (handed if handed != volume else 0)
    held = n_volumes
    if not forward_only:
        held = source_block(n_volumes, chunk_volumes, volume)
        series += n_volumes * volume  # once more, contiguous
    # An array's chunks are held until all that is cut of them has been used, and cuts beside them.
    blocks = held * (BLOCKS_AHEAD if forward_only else copies) - (-3 * joined // (2 * volume))
    return Reading(
        n_voxels, rank, n_lags, moments, n_volumes, n_summed, blocks, volume, series, chunk,
        forward_only,
    )  # fmt: skip


def reading_bytes(task: Reading) -> int:
    """Memory of one task that reads, beside the moments it makes.

    Examples
    --------
    >>> task = Reading(20_000, 12, 1, 0, 32, 32, 64, 64 * 64 * 30 * 2, 5_120_000, 0, True)
    >>> reading_bytes(task) // 10**6
    37
    """
    # A part in float64, its products, and their sum, for as many voxels as stay in cache.
    at_once = min(task.n_voxels, SAMPLES_AT_ONCE // max(1, task.n_summed) + 1)
    rows = (task.n_lags + 1) * task.rank + 1
    adding = 8 * SAMPLES_AT_ONCE + 2 * 8 * rows * at_once
    chunks = CHUNKS_PER_READER * task.chunk
    return task.blocks * task.volume + task.series + THREADS_ADDING * adding + chunks


def fit_bytes(
    readings: Sequence[Reading],
    solvings: Sequence[Solving],
    grid: int,
    results: int,
    in_memory: int,
    threads: int,
    *,
    waiting: bool = False,
) -> int:
    """Peak memory of fits, their contrasts, and maps of several runs combined.

    Parameters
    ----------
    readings : sequence of Reading
        Each task that reads; none when the moments are there.
    solvings : sequence of Solving
        Each set of maps made of moments; none when the maps are there.
    grid : int
        Voxels of the volume.
    results : int
        Bytes of what is computed in the end.
    in_memory : int
        Bytes of arrays that are held before anything starts.
    threads : int
        Tasks that run at once.
    waiting : bool
        Moments of all slabs wait until the last of them is there (`lazy.neighbours`).

    Examples
    --------
    >>> task = Reading(20_000, 12, 1, 4_800_000, 32, 32, 64, 64 * 64 * 30 * 2, 5_120_000, 0, True)
    >>> maps = Solving((10_000, 10_000), 7)
    >>> grid = 64 * 64 * 30
    >>> fit_bytes([task], [maps], grid, 56 * grid, 0, threads=1) // 10**6
    233
    >>> fit_bytes([task] * 2, [maps] * 2, grid, 56 * grid, 0, threads=2) // 10**6
    355
    """
    total = PROCESS_BYTES + in_memory
    total += 8 * NUMBERS_IN_GRAPH * sum(task.n_voxels for task in readings)
    total += _largest((reading_bytes(task) for task in readings), threads)
    total += CHUNKS_KEPT * max((task.chunk for task in readings), default=0)
    # Moments of a whole run wait until the last of its slabs is solved, beside those being made;
    # moments of a slab are solved next. Scaling them makes a second copy.
    forward = [task.moments for task in readings if task.forward_only]
    total += _largest(forward, threads + 2) + _largest(forward, threads)
    by_slab = [task.moments for task in readings if not task.forward_only]
    total += _largest(by_slab, len(by_slab) if waiting else 2 * threads)
    slabs = [n for maps in solvings for n in maps.slabs]
    total += 8 * NUMBERS_SOLVING * _largest(slabs, threads)
    total += _largest((8 * maps.n_maps * n for maps in solvings for n in maps.slabs), threads)
    if len(solvings) != 1:
        total += 8 * NUMBERS_WAITING * grid * len(solvings)
        total += TIMES_COMBINING * MAPS_BYTES * threads
    # Blocks of the results, and the arrays they are put together in.
    return total + 2 * results


def _largest(sizes: Iterable[int], n: int) -> int:
    """The sum of the n largest."""
    return sum(sorted(sizes, reverse=True)[:n])


def conversion_bytes(buffer: int, block: int) -> int:
    """Peak memory of a conversion.

    Parameters
    ----------
    buffer : int
        Bytes of volumes that it may hold at once.
    block : int
        Bytes of one block of time, whole volumes; less where chunks of that length are large.

    Examples
    --------
    >>> conversion_bytes(16_000_000, 16_000_000) // 10**6
    330
    >>> conversion_bytes(16_000_000, 1_000_000) // 10**6
    200
    """
    # What the C library keeps for the threads does not shrink as fast as the blocks do: beside the
    # 140 MB of the interpreter, blocks of 4 MB were seen to take 40 MB, of 14 MB 100 MB.
    return PROCESS_BYTES + BUFFERS_ALIVE * min(buffer, 3 * block)
