"""One pass over the data: blocks of time added to moments."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from chunkglm._types import AnyArray, FloatArray, IntArray
from chunkglm.kernels.factor import BasisSums, ShiftedBasis
from chunkglm.kernels.moments import Moments, no_moments
from chunkglm.kernels.pages import Scratch
from chunkglm.kernels.segments import Piece

# Numbers handled at once, samples and their products, that both stay in cache: 3.2 MB in float64.
# 100,000 voxels x 60 volumes x 30 regressors: 32 ms here, 43 ms with half as many.
SAMPLES_IN_CACHE = 400_000

# A block that begins a run is fitted by itself, and where that leaves less than this share of a
# voxel's squares, sums are taken about this fit: as differences of sums the residuals' would lose
# three digits and more. Of fMRI it leaves a tenth and more, so that nothing but the check is done.
EXPLAINED_BY_FIRST_BLOCK = 1e-3

# Directions of the basis that the first block tells apart: it holds this part at least of what
# falls to its volumes on average, so that its noise is not magnified tenfold over the run.
SEEN_IN_FIRST_BLOCK = 0.1


class Provisional(NamedTuple):
    """Coefficients about which the sums of some voxels are taken while blocks are added."""

    voxels: IntArray  # (n,), ascending
    g: FloatArray  # (r, n)


def add_block(
    moments: Moments,
    series: AnyArray,
    basis: ShiftedBasis,
    first_volume: int,
    provisional: Provisional | None = None,
    scratch: Scratch | None = None,
) -> Provisional | None:
    """Add the next block of time to moments, in place.

    Parameters
    ----------
    moments : Moments
        Of all volumes before `first_volume`; changed. The run's first kept volume becomes the
        reference.
    series : (t, V) array
        Data of t consecutive volumes, any real dtype; either axis may be the contiguous one. What
        dropped volumes hold does not matter.
    basis : ShiftedBasis
        Of the whole run.
    first_volume : int
        The block's first volume, counted from the run's first.
    provisional : Provisional, optional
        What adding the block before returned.
    scratch : Scratch, optional
        Memory of the calling thread's, for all its blocks.

    Returns
    -------
    Provisional or None
        For the next block, and for `finish`.
    """
    position, rows = basis.segments.within(first_volume, first_volume + series.shape[0])
    if not rows.size:
        return provisional
    if position == 0:
        moments.reference[:] = series[rows[0]]
    kept = None if rows.size == len(series) else rows
    # Samples that are not finite, or whose squares are not, make their own voxel NaN, in silence.
    with np.errstate(invalid="ignore", over="ignore"):
        _add_kept(moments, series, kept, basis, position, provisional, scratch or Scratch(np.empty))
        if position:
            return provisional
        return _begin_about_fit(moments, series, kept, basis, rows.size)


def _begin_about_fit(
    moments: Moments, series: AnyArray, kept: AnyArray | None, basis: ShiftedBasis, n_kept: int
) -> Provisional | None:
    """Take the first block's sums anew where a fit of it explains nearly all."""
    q = basis.rows[0][:, :n_kept]
    share, directions = np.linalg.eigh(q @ q.T)
    seen = share > SEEN_IN_FIRST_BLOCK * n_kept / basis.segments.n_kept
    # A fit of as many samples as coefficients explains whatever there is.
    if n_kept < 2 * np.count_nonzero(seen):
        return None
    directions = directions[:, seen] / np.sqrt(share[seen])
    squares = moments.autocovariance[0]
    explained = np.empty_like(squares)
    for part in _in_cache(squares.size, 2 * len(directions)):
        along = directions.T @ moments.products[0][:, part]
        np.einsum("rv,rv->v", along, along, out=explained[part])
    nearly_all = (1.0 - EXPLAINED_BY_FIRST_BLOCK) * squares
    voxels = np.flatnonzero((explained >= nearly_all) & (squares > 0))
    if not voxels.size:
        return None
    along = directions.T @ moments.products[0][:, voxels]
    found = Provisional(voxels, directions @ along)
    some = Moments(*(np.zeros_like(part[..., voxels]) for part in moments))
    some.reference[:] = moments.reference[voxels]
    of_some = found._replace(voxels=np.arange(voxels.size))
    _add_kept(some, series[:, voxels], kept, basis, 0, of_some, Scratch(np.empty))
    for field, again in zip(moments, some, strict=True):
        field[..., voxels] = again
    return found


def _add_kept(
    moments: Moments,
    series: AnyArray,
    kept: AnyArray | None,
    basis: ShiftedBasis,
    position: int,
    provisional: Provisional | None,
    scratch: Scratch,
) -> None:
    """Add the kept volumes of a block, all where `kept` is None."""
    n_voxels = series.shape[1]
    n_kept = series.shape[0] if kept is None else kept.size
    products = moments.products.reshape(-1, n_voxels)
    of_block = basis.rows[:, :, position : position + n_kept]
    # A row of ones makes the sum over time part of the same product.
    rows = np.vstack([of_block.reshape(-1, n_kept), np.ones(n_kept)])
    pieces = list(basis.segments.pieces(position, n_kept))
    edges = (basis.segments.n_segments, basis.n_lags, n_voxels)
    head, tail = moments.head.reshape(edges), moments.tail.reshape(edges)
    step = max(1, min(n_voxels, SAMPLES_IN_CACHE // (n_kept + len(rows))))
    numbers = scratch.take((n_kept + len(rows)) * step)  # 3.2 MB at most where voxels are many
    for first in range(0, n_voxels, step):
        part = slice(first, min(first + step, n_voxels))
        width = part.stop - first
        both = numbers[: (n_kept + len(rows)) * width].reshape(-1, width)
        d, sums = both[:n_kept], both[n_kept:]
        values = series[:, part] if kept is None else series[kept, part]
        _about_reference(values, moments.reference[part], d)
        if provisional is not None:
            _about_fit(d, of_block[0], provisional, part)
        np.matmul(rows, d, out=sums)
        if position == 0:  # nothing to add to: not even the zeros are read
            products[:, part] = sums[:-1]
        else:
            products[:, part] += sums[:-1]
        moments.total[part] += sums[-1]
        moments.autocovariance[0, part] += np.einsum("tv,tv->v", d, d)
        if basis.n_lags:
            for piece in pieces:
                _add_lagged(
                    moments.autocovariance[:, part], d[piece.rows], piece,
                    head[piece.segment][:, part], tail[piece.segment][:, part],
                )  # fmt: skip


def _add_lagged(
    autocovariance: FloatArray, d: FloatArray, piece: Piece, head: FloatArray, tail: FloatArray
) -> None:
    """Add the lagged products of a piece of one segment, and keep the segment's edges."""
    n_lags = tail.shape[0]
    for lag in range(1, n_lags + 1):
        # S_d counts each pair of samples twice; pairs may straddle the border of the block.
        lagged = np.einsum("tv,tv->v", d[lag:], d[:-lag])
        if piece.position:
            near = d[:lag]
            lagged += np.einsum("tv,tv->v", near, tail[n_lags - lag :][: len(near)])
        autocovariance[lag] += 2.0 * lagged
    for t in range(piece.position, min(n_lags, piece.position + len(d))):
        head[t] = d[t - piece.position]
    tail[:] = np.concatenate([tail, d[-n_lags:]])[-n_lags:]


def _about_reference(series: AnyArray, reference: FloatArray, out: FloatArray) -> None:
    if series.dtype == np.float64:
        np.subtract(series, reference, out=out)
        return
    # Cast before subtracting: integer differences may overflow, and a cast inside the subtraction
    # is three times slower (5.5 against 1.8 ns a sample).
    np.copyto(out, series)
    out -= reference


def _about_fit(d: FloatArray, q: FloatArray, provisional: Provisional, part: slice) -> None:
    """Subtract ``Qg`` from the voxels of a part that have one."""
    a, b = np.searchsorted(provisional.voxels, [part.start, part.stop]).tolist()
    if a < b:
        d[:, provisional.voxels[a:b] - part.start] -= q.T @ provisional.g[:, a:b]


def finish(moments: Moments, basis: ShiftedBasis, provisional: Provisional | None) -> None:
    """Put moments of a whole run about its least-squares fit, in place.

    Parameters
    ----------
    moments : Moments
        To which all blocks were added; changed.
    basis : ShiftedBasis
    provisional : Provisional or None
        What adding the last block returned.
    """
    sums = basis.sums
    with np.errstate(invalid="ignore", over="ignore"):
        # A few voxels at a time: each sum is looked at several times, and should stay in cache.
        for part in _in_cache(moments.total.size, sum(sums.lagged.shape[:2])):
            _about_least_squares(moments.of_voxels(part), sums)
    if provisional is not None:
        moments.products[0][:, provisional.voxels] += provisional.g


def _about_least_squares(moments: Moments, sums: BasisSums) -> None:
    c = moments.products[0]
    moments.autocovariance[0] -= np.einsum("rv,rv->v", c, c)
    for lag in range(1, moments.n_lags + 1):
        # (d - Qc)'S_d(d - Qc) = d'S_dd - c'[(S_dQ)'d + (S_dQ)'(d - Qc)]
        before = np.einsum("rv,rv->v", c, moments.products[lag])
        moments.products[lag] -= sums.lagged[lag] @ c
        before += np.einsum("rv,rv->v", c, moments.products[lag])
        moments.autocovariance[lag] -= before
    moments.total[:] -= sums.constant @ c
    moments.head[:] -= sums.heads @ c
    moments.tail[:] -= sums.tails @ c


def _in_cache(n_voxels: int, rows: int) -> Iterator[slice]:
    step = max(1, SAMPLES_IN_CACHE // (2 * max(1, rows)))
    for first in range(0, n_voxels, step):
        yield slice(first, min(first + step, n_voxels))


def of_series(series: AnyArray, basis: ShiftedBasis) -> Moments:
    """Moments of a whole run held in memory.

    Parameters
    ----------
    series : (T, V) array
    basis : ShiftedBasis

    Returns
    -------
    Moments
    """
    # Memory that was used before, where there is: of one block, new pages are a tenth of the time.
    moments = no_moments(series.shape[1], basis, np.zeros)
    finish(moments, basis, add_block(moments, series, basis, 0))
    return moments
