"""Sizes of chunks, slabs and maps, in pure integers; nothing is read."""

from collections.abc import Sequence
from itertools import pairwise

MB = 1_000_000

# Decoded bytes of a store's chunk: 4 MB are written and read as fast as 16 MB (0.24 s for 270 MB),
# and what several threads decode at once is then small. 6 MB leave room for 64 volumes of a small
# run beside its planes: a real one of 64 x 64 x 21 then shrinks to a 5.6th, with 22 to a 4.8th.
CHUNK_BYTES = 6 * MB

# Planes that a chunk should hold rather than more volumes: smoothing reads and smooths three planes
# to either side of a slab once more. Chunks of 6 planes cost 1.1 s of processor time where 15 cost
# 0.8 (two runs of 64 x 64 x 30 x 191, 5 mm).
CHUNK_PLANES = 16

# Volumes buffered while a run is converted: one block of time, whole volumes.
BUFFER_BYTES = 16 * MB
CHUNKS_PER_BUFFER = 2

# Moments of one slab of voxels, the unit of parallel work after the pass over the data.
SLAB_BYTES = 32 * MB
SMALLEST_SLAB_BYTES = 2 * MB
SLABS_AT_LEAST = 4

# Maps of slabs that are put together into one chunk, all maps of a contrast or of several counted:
# dask's own measure of a chunk. One chunk need not be joined when it is computed, which of 20
# contrasts of 64 x 64 x 30 (98 MB) takes longer than their statistics.
MAP_CHUNK_BYTES = 128 * MB

# Maps of all runs that are combined at once; combining them takes several times as much.
MAPS_BYTES = 8 * MB

# What conversion takes, in buffers: three that are read ahead, waiting or written, two chunks being
# turned and compressed, and what freed memory of theirs the C library keeps (as much again).
BUFFERS_ALIVE = 10

# What a process takes whatever the data: 140 MB for the interpreter and the libraries, and the
# threads' own, up to 30 MB in conversions of however small blocks.
PROCESS_BYTES = 170 * MB


def parts(n: int, largest: int) -> int:
    """Length of the most even parts of `n` of at most `largest` each.

    Examples
    --------
    >>> parts(191, 100), parts(191, 191), parts(6, 4)
    (96, 191, 3)
    """
    count = -(-n // max(1, min(n, largest)))
    return -(-n // count)


def even_blocks(n: int, largest: int) -> list[range]:
    """Split ``range(n)`` into the fewest blocks of at most `largest`, as even as possible.

    Examples
    --------
    >>> even_blocks(10, 4)
    [range(0, 3), range(3, 6), range(6, 10)]
    """
    count = max(1, -(-n // max(1, largest)))
    return [range(a, b) for a, b in pairwise(i * n // count for i in range(count + 1))]


def whole_blocks(n: int, length: int) -> list[range]:
    """Split ``range(n)`` into blocks of `length`, the last as long as what is left.

    Examples
    --------
    >>> whole_blocks(10, 4)
    [range(0, 4), range(4, 8), range(8, 10)]
    """
    return [range(first, min(first + length, n)) for first in range(0, n, length)]


def store_chunks(
    shape: tuple[int, int, int, int], itemsize: int, buffer_bytes: int = BUFFER_BYTES
) -> tuple[int, int, int, int]:
    """Chunks of a run's store: whole planes, a slab of z, a block of time.

    Parameters
    ----------
    shape : tuple of four ints
        x, y, z, time.
    itemsize : int
        Bytes of a sample.
    buffer_bytes : int
        Volumes held at once while converting.

    Returns
    -------
    tuple of four ints

    Examples
    --------
    >>> store_chunks((64, 64, 30, 191), 2)
    (64, 64, 15, 48)
    >>> store_chunks((64, 76, 64, 6804), 2)
    (64, 76, 22, 25)
    """
    x, y, z, n_scans = shape
    volume = x * y * z * itemsize
    chunk = min(CHUNK_BYTES, buffer_bytes // CHUNKS_PER_BUFFER)
    deep = x * y * parts(z, CHUNK_PLANES) * itemsize
    block = parts(n_scans, max(1, min(buffer_bytes // volume, chunk // deep)))
    slab = parts(z, max(1, chunk // (x * y * itemsize * block)))
    return x, y, slab, block


def conversion_buffer(memory_limit: int | None, volume_bytes: int) -> int:
    """Bytes of volumes that a conversion may hold, at least one.

    Examples
    --------
    >>> conversion_buffer(None, 2 * MB), conversion_buffer(210 * MB, 2 * MB)
    (16000000, 4000000)
    """
    if memory_limit is None:
        return max(volume_bytes, BUFFER_BYTES)
    fits = (memory_limit - PROCESS_BYTES) // BUFFERS_ALIVE
    return max(volume_bytes, min(BUFFER_BYTES, fits))


def slabs(voxels_per_plane: list[int], bytes_per_voxel: int, unit: int = 1) -> list[range]:
    """Ranges of planes worked on together, none without a voxel in the mask.

    Parameters
    ----------
    voxels_per_plane : list of int
        Voxels of the mask in each plane.
    bytes_per_voxel : int
        Moments of one voxel.
    unit : int
        Planes that the store reads together; slabs are made of whole units.

    Returns
    -------
    list of range
        Together they hold every plane; planes without voxels are ranges of their own.

    Examples
    --------
    >>> slabs([0, 0, 5, 5, 5, 5, 0], bytes_per_voxel=400_000)
    [range(0, 2), range(2, 3), range(3, 4), range(4, 5), range(5, 6), range(6, 7)]
    >>> slabs([0, 0, 5, 5, 5, 5, 0], bytes_per_voxel=100_000)
    [range(0, 2), range(2, 6), range(6, 7)]
    """
    n_planes = len(voxels_per_plane)
    total = sum(voxels_per_plane) * bytes_per_voxel
    target = min(SLAB_BYTES, max(SMALLEST_SLAB_BYTES, total // SLABS_AT_LEAST))
    # The fewest slabs of the target size, then all of that share: no small one left at the end.
    share = max(1, -(-total // max(1, -(-total // target))))
    edges, held = [0], 0
    for first in range(0, n_planes, unit):
        here = sum(voxels_per_plane[first : first + unit]) * bytes_per_voxel
        # To the nearest unit: cut before the share is reached, thick units would all be alone, and
        # when smoothing every slab reads and smooths its neighbours' planes once more.
        too_large = held + here > SLAB_BYTES or held + here // 2 >= share
        if first and (bool(held) != bool(here) or too_large):
            edges.append(first)
            held = 0
        held += here
    edges.append(n_planes)
    return [range(a, b) for a, b in pairwise(edges)]


def cut_slabs(planes: list[range], plane_bytes: int) -> list[range]:
    """Cut slabs further, so that maps of them stay small too.

    Parameters
    ----------
    planes : list of range
        From `slabs`.
    plane_bytes : int
        Of one plane of all the maps together.

    Examples
    --------
    >>> cut_slabs([range(0, 2), range(2, 12)], plane_bytes=8_000_000)
    [range(0, 2), range(2, 5), range(5, 8), range(8, 12)]
    """
    most = max(1, SLAB_BYTES // max(1, plane_bytes))
    return [
        range(slab.start + part.start, slab.start + part.stop)
        for slab in planes
        for part in even_blocks(len(slab), most)
    ]


def moment_bytes(rank: int, n_lags: int, n_segments: int = 1) -> int:
    """Bytes of one voxel's moments.

    Parameters
    ----------
    rank : int
        Of the design.
    n_lags : int
    n_segments : int
        Runs of consecutive volumes, of which both ends are kept.

    Examples
    --------
    >>> moment_bytes(rank=12, n_lags=1)
    240
    >>> moment_bytes(rank=12, n_lags=3, n_segments=20)
    1392
    """
    numbers = (n_lags + 1) * rank + (n_lags + 1) + 2 * n_lags * n_segments + 2
    return 8 * numbers


def map_planes(plane_bytes: int) -> int:
    """Planes of maps that are combined at once.

    Parameters
    ----------
    plane_bytes : int
        Of one plane of all the maps together.

    Examples
    --------
    >>> map_planes(20 * 4 * 8 * 91 * 109)
    1
    >>> map_planes(2 * 4 * 8 * 64 * 64)
    30
    """
    return max(1, MAPS_BYTES // max(1, plane_bytes))


def map_chunks(planes: Sequence[range], plane_bytes: int) -> list[range]:
    """Runs of consecutive slabs whose maps are put together.

    Parameters
    ----------
    planes : sequence of range
        Of each slab.
    plane_bytes : int
        Of one plane of all the maps together.

    Returns
    -------
    list of range
        Of slabs: as many as `MAP_CHUNK_BYTES` hold, at least one.

    Examples
    --------
    >>> slabs = [range(0, 2), range(2, 7), range(7, 12)]
    >>> map_chunks(slabs, plane_bytes=16_000_000), map_chunks(slabs, plane_bytes=10_000_000)
    ([range(0, 2), range(2, 3)], [range(0, 3)])
    """
    most = MAP_CHUNK_BYTES // max(1, plane_bytes)
    edges, held = [0], 0
    for i, slab in enumerate(planes):
        if held and held + len(slab) > most:
            edges.append(i)
            held = 0
        held += len(slab)
    return [range(a, b) for a, b in pairwise([*edges, len(planes)])]
