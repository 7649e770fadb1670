"""Sizes of blocks, chunks and slabs, in pure integers; nothing is read."""

from itertools import pairwise

MB = 1_000_000

# Decoded bytes of a store's chunk: large enough that a read is one request, small enough that
# several fit in memory beside the work on them.
CHUNK_BYTES = 16 * MB

# Volumes buffered while a run is converted: one block of time, whole volumes.
BUFFER_BYTES = 32 * MB

# Moments of one slab of voxels, the unit of parallel work after the pass over the data.
SLAB_BYTES = 32 * MB
SMALLEST_SLAB_BYTES = 2 * MB
SLABS_AT_LEAST = 4

# Series of one block of time held as float64 while the moments of a slab are added up.
SERIES_BYTES = 12 * MB

# Copies of the buffer alive during conversion: read ahead, waiting, being written, its transpose.
BUFFERS_ALIVE = 4

# What the interpreter and the libraries take before any data.
PROCESS_BYTES = 150 * MB


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
    (64, 64, 15, 96)
    >>> store_chunks((64, 76, 64, 6804), 2)
    (64, 76, 32, 51)
    """
    x, y, z, n_scans = shape
    volume = x * y * z * itemsize
    block = parts(n_scans, max(1, buffer_bytes // volume))
    slab = parts(z, max(1, CHUNK_BYTES // (x * y * itemsize * block)))
    return x, y, slab, block


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
        if first and (bool(held) != bool(here) or held + here > share):
            edges.append(first)
            held = 0
        held += here
    edges.append(n_planes)
    return [range(a, b) for a, b in pairwise(edges)]


def moment_bytes(rank: int, n_lags: int) -> int:
    """Bytes of one voxel's moments.

    Examples
    --------
    >>> moment_bytes(rank=12, n_lags=1)
    240
    """
    numbers = (n_lags + 1) * rank + (n_lags + 1) + 2 * n_lags + 2
    return 8 * numbers


def block_volumes(n_voxels: int, n_scans: int) -> int:
    """Volumes of a block of time whose series are held as float64 at once.

    Examples
    --------
    >>> block_volumes(50_000, 191)
    30
    """
    return max(1, min(n_scans, SERIES_BYTES // (8 * max(1, n_voxels))))
