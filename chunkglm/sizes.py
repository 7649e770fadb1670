"""Sizes of blocks, chunks and slabs, in pure integers; nothing is read."""

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

# Series of one block of time held as float64 while the moments of a slab are added up.
SERIES_BYTES = 12 * MB

# The block they are taken from, as it lies in the file. A mask of 4,000 voxels alone would ask for
# 375 volumes at once, 0.7 GB of a run of 91 x 109 x 91.
BLOCK_BYTES = 8 * MB

# Sums are read and written once for each block: a block of one volume costs three times as much a
# volume as one of four, which is still a seventh of the sums.
SMALLEST_BLOCK = 4

# Volumes that are smoothed and added up together, as they lie in the file; two such blocks are
# held. Of 91 x 109 x 91, 40 take as long as 60 and 90 MB less; 20 take a tenth longer, for the sums
# are then read and written twice as often.
SMOOTHED_BYTES = 75 * MB

# A store whose chunks of time make longer blocks than this is read in parts of its chunks.
LARGEST_BLOCK_BYTES = 32 * MB

# Residuals or predictions of a slab and a block of time, as float64 over whole planes.
SERIES_BLOCK_BYTES = 16 * MB

# Blocks in which a compressed run is looked at again: each is read from the start of the file.
FORWARD_BLOCK_BYTES = 32 * MB

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


def block_volumes(n_voxels: int, n_scans: int, volume_bytes: int = 0) -> int:
    """Volumes of a block of time, so that neither it nor its series are large.

    Parameters
    ----------
    n_voxels : int
        Whose series are held, as float64 when smoothed.
    n_scans : int
        Of the run.
    volume_bytes : int
        Of the planes read of each volume, as they lie in the file.

    Examples
    --------
    >>> block_volumes(50_000, 191)
    30
    >>> block_volumes(4_000, 191, volume_bytes=91 * 109 * 91 * 2)
    4
    """
    volume_bytes = max(1, volume_bytes)
    by_series = max(SMALLEST_BLOCK, SERIES_BYTES // (8 * max(1, n_voxels)))
    by_block = max(
        BLOCK_BYTES // volume_bytes, min(SMALLEST_BLOCK, LARGEST_BLOCK_BYTES // volume_bytes)
    )
    return max(1, min(n_scans, by_series, by_block))


def summed_volumes(n_read: int, n_scans: int, rank: int, n_lags: int) -> int:
    """Volumes whose series are collected before they are added to the sums.

    Sums are read and written once for each such block, so that series of as many volumes as a voxel
    has sums cost a few bytes of them a sample, and take as much memory: 30 regressors over 400,000
    voxels have 190 MB of sums, which blocks of 4 volumes would move 300 times.

    Parameters
    ----------
    n_read : int
        Volumes read at once, from `block_volumes`.
    n_scans : int
        Of the run.
    rank : int
        Of the design.
    n_lags : int

    Examples
    --------
    >>> summed_volumes(4, 1200, rank=30, n_lags=1), summed_volumes(30, 191, rank=12, n_lags=1)
    (60, 30)
    """
    return min(n_scans, max(n_read, (n_lags + 1) * rank))


def smoothed_volumes(n_read: int, n_scans: int, rank: int, n_lags: int, volume_bytes: int) -> int:
    """Volumes that are read, smoothed and added up at once.

    As many as `summed_volumes`, for its reason, but held as they lie in the file: smoothed, they
    exist a few planes at a time.

    Parameters
    ----------
    n_read, n_scans, rank, n_lags
        As for `summed_volumes`.
    volume_bytes : int
        Of the planes read of each volume, as they are handed on.

    Examples
    --------
    >>> smoothed_volumes(4, 1200, rank=30, n_lags=1, volume_bytes=91 * 109 * 91 * 2)
    41
    >>> smoothed_volumes(4, 1200, rank=30, n_lags=1, volume_bytes=91 * 109 * 91 * 8)
    10
    """
    most = max(n_read, SMOOTHED_BYTES // volume_bytes)
    return min(most, summed_volumes(n_read, n_scans, rank, n_lags))


def source_block(n_volumes: int, chunk: int, volume_bytes: int) -> int:
    """Volumes of a block as it is read: whole chunks of time, unless those are too large.

    Parameters
    ----------
    n_volumes : int
        From `block_volumes`.
    chunk : int
        Volumes in a chunk of the source.
    volume_bytes : int
        Of the planes read of each volume.

    Examples
    --------
    >>> source_block(34, chunk=16, volume_bytes=245_760)
    32
    >>> source_block(34, chunk=64, volume_bytes=245_760)
    64
    >>> source_block(34, chunk=1000, volume_bytes=245_760)
    34
    """
    whole = chunk * max(1, n_volumes // chunk)
    return whole if whole * volume_bytes <= LARGEST_BLOCK_BYTES else n_volumes


def series_block(volume_bytes: int, chunk: int, n_scans: int) -> int:
    """Volumes of a block of residuals or predictions: whole chunks of the run, if they are small.

    Parameters
    ----------
    volume_bytes : int
        Of one volume of the block, as float64.
    chunk : int
        Volumes in a chunk of the run.
    n_scans : int
        Of the run.

    Examples
    --------
    >>> series_block(64 * 64 * 7 * 8, chunk=64, n_scans=191)
    64
    >>> series_block(91 * 109 * 13 * 8, chunk=25, n_scans=6804)
    15
    """
    length = max(1, SERIES_BLOCK_BYTES // volume_bytes)
    if length >= chunk:
        length -= length % chunk
    return min(length, n_scans)


def forward_block(volume_bytes: int, n_scans: int) -> int:
    """Volumes read at once of a file that is read from its start each time.

    Parameters
    ----------
    volume_bytes : int
        Of one volume, as it lies in the file.
    n_scans : int
        Of the run.

    Examples
    --------
    >>> forward_block(64 * 64 * 30 * 2, 191), forward_block(64 * 76 * 64 * 2, 6804)
    (130, 51)
    """
    return min(n_scans, max(1, FORWARD_BLOCK_BYTES // volume_bytes))


def chunks_held(chunks: Sequence[int], wanted: int) -> int:
    """At most so long are the whole chunks of which a stretch is cut, wherever it begins.

    Examples
    --------
    >>> chunks_held((7, 7, 7, 7, 7), 10), chunks_held((191,), 30), chunks_held((64, 64, 63), 30)
    (22, 191, 156)
    """
    return min(sum(chunks), wanted + 2 * (max(chunks) - 1))


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
