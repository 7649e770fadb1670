"""Volumes of a block of time, in pure integers: what is read, held and summed at once."""

from collections.abc import Sequence

# Series of one block of time held as float64 while the moments of a slab are added up.
SERIES_BYTES = 12_000_000

# The block they are taken from, as it lies in the file. A mask of 4,000 voxels alone would ask for
# 375 volumes at once, 0.7 GB of a run of 91 x 109 x 91.
BLOCK_BYTES = 8_000_000

# Sums are read and written once for each block: a block of one volume costs three times as much a
# volume as one of four, which is still a seventh of the sums.
SMALLEST_BLOCK = 4

# Volumes that are smoothed and added up together, as they lie in the file; two such blocks are
# held. Of 91 x 109 x 91, 40 take as long as 60 and 90 MB less; 20 take a tenth longer, for the sums
# are then read and written twice as often.
SMOOTHED_BYTES = 75_000_000

# A store whose chunks of time make longer blocks than this is read in parts of its chunks.
LARGEST_BLOCK_BYTES = 32_000_000

# Residuals or predictions of a slab and a block of time, as float64 over whole planes.
SERIES_BLOCK_BYTES = 16_000_000

# Blocks in which a compressed run is looked at again: each is read from the start of the file.
FORWARD_BLOCK_BYTES = 32_000_000


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
