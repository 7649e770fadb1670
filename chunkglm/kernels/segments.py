"""Which volumes of a run count, and where runs of consecutive ones begin and end."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from chunkglm._types import AnyArray, BoolArray, FloatArray, IntArray


class Piece(NamedTuple):
    """What one block of time holds of one segment."""

    segment: int
    position: int  # of the piece's first volume in its segment
    rows: slice  # among the block's kept volumes


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """The kept volumes of a run, in segments across whose borders no two samples are paired.

    A segment is a maximal run of consecutive kept volumes, so that a lag never crosses a dropped
    one; but two may also adjoin, as runs do that are joined into one model, and one may reach
    across dropped volumes, for numbers like nilearn's. N volumes are kept of
    T; positions are counted among the kept ones.
    """

    n_volumes: int  # T, dropped ones included
    kept: IntArray  # (N,), ascending, counted from the run's first volume
    edges: IntArray  # (S + 1,), position at which each segment begins, and N

    @property
    def n_kept(self) -> int:
        """Number of kept volumes N."""
        return int(self.kept.size)

    @property
    def n_segments(self) -> int:
        """Number of segments S."""
        return int(self.edges.size - 1)

    @property
    def lengths(self) -> IntArray:
        """Volumes of each segment, (S,)."""
        return np.asarray(np.diff(self.edges))

    @property
    def keep(self) -> BoolArray:
        """Whether a volume counts, (T,)."""
        out = np.zeros(self.n_volumes, dtype=bool)
        out[self.kept] = True
        return out

    @property
    def labels(self) -> IntArray:
        """Segment of each kept volume, (N,)."""
        return np.repeat(np.arange(self.n_segments), self.lengths)

    @property
    def ages(self) -> IntArray:
        """Volumes since its segment began, of every volume of the run, (T,); 0 for dropped ones."""
        out = np.zeros(self.n_volumes, dtype=np.intp)
        out[self.kept] = np.arange(self.n_kept) - np.repeat(self.edges[:-1], self.lengths)
        return out

    def on_run(self, x: FloatArray) -> FloatArray:
        """Rows of kept volumes, (N, ...), among those of the whole run, (T, ...), NaN elsewhere."""
        out = np.full((self.n_volumes, *x.shape[1:]), np.nan)
        out[self.kept] = x
        return out

    def rows_of(self, X: FloatArray) -> FloatArray:
        """Rows of kept volumes, (N, ...), of an array of all volumes; those of kept ones as is."""
        return X if len(X) == self.n_kept else X[self.kept]

    def n_pairs(self, lag: int) -> int:
        """Pairs of volumes of the same segment that lie `lag` apart; N for lag 0."""
        return int(np.maximum(self.lengths - lag, 0).sum())

    def shift(self, x: FloatArray, lag: int) -> FloatArray:
        """``(S_d x)_t = x_{t+d} + x_{t-d}``, zero outside of the segment; S_0 is the identity.

        Parameters
        ----------
        x : (N, ...) array
        lag : int

        Returns
        -------
        (N, ...) array
        """
        if lag == 0:
            return x.copy()
        out = np.zeros_like(x)
        for a, b in zip(self.edges[:-1].tolist(), self.edges[1:].tolist(), strict=True):
            if b - a > lag:
                out[a : b - lag] += x[a + lag : b]
                out[a + lag : b] += x[a : b - lag]
        return out

    def heads(self, x: FloatArray, n: int) -> FloatArray:
        """First n samples of each segment; zero after the end of one that is shorter.

        Parameters
        ----------
        x : (N, ...) array
        n : int

        Returns
        -------
        (S, n, ...) array
        """
        out = np.zeros((self.n_segments, n, *x.shape[1:]))
        for s, (start, length) in enumerate(zip(self.edges[:-1], self.lengths, strict=True)):
            m = min(n, length)
            out[s, :m] = x[start : start + m]
        return out

    def tails(self, x: FloatArray, n: int) -> FloatArray:
        """Last n samples of each segment; zero before the start of one that is shorter.

        Parameters
        ----------
        x : (N, ...) array
        n : int

        Returns
        -------
        (S, n, ...) array
        """
        out = np.zeros((self.n_segments, n, *x.shape[1:]))
        for s, (stop, length) in enumerate(zip(self.edges[1:], self.lengths, strict=True)):
            m = min(n, length)
            out[s, n - m :] = x[stop - m : stop]
        return out

    def within(self, first: int, stop: int) -> tuple[int, IntArray]:
        """Kept volumes of a block of time.

        Parameters
        ----------
        first, stop : int
            The block's volumes, counted from the run's first.

        Returns
        -------
        position : int
            Of the block's first kept volume.
        rows : (n,) int array
            The block's kept volumes, counted from `first`.
        """
        a, b = np.searchsorted(self.kept, [first, stop]).tolist()
        return a, self.kept[a:b] - first

    def pieces(self, position: int, n: int) -> Iterator[Piece]:
        """Segments, or parts of them, among n kept volumes from `position` on."""
        if not n:
            return
        stop = position + n
        segment = int(np.searchsorted(self.edges, position, side="right")) - 1
        while segment < self.n_segments and self.edges[segment] < stop:
            start, end = int(self.edges[segment]), int(self.edges[segment + 1])
            a, b = max(start, position), min(end, stop)
            yield Piece(segment, a - start, slice(a - position, b - position))
            segment += 1


def whole_run(n_volumes: int) -> Segments:
    """One segment of all volumes: nothing is dropped.

    Parameters
    ----------
    n_volumes : int

    Returns
    -------
    Segments
    """
    return Segments(n_volumes, np.arange(n_volumes), np.array([0, n_volumes]))


def segments_of_mask(keep: AnyArray, *, across_gaps: bool = False) -> Segments:
    """Segments of a run of which some volumes are dropped.

    Parameters
    ----------
    keep : (T,) bool array
        At least one is kept.
    across_gaps : bool
        All kept volumes make one segment, as if the dropped ones had never been.

    Returns
    -------
    Segments
    """
    kept = np.flatnonzero(keep)
    starts = np.flatnonzero(np.diff(kept) > (len(keep) if across_gaps else 1)) + 1
    return Segments(len(keep), kept, np.concatenate([[0], starts, [kept.size]]))


def joined(runs: Sequence[Segments]) -> Segments:
    """Segments of runs laid end to end; none crosses from one run into the next.

    Parameters
    ----------
    runs : sequence of Segments

    Returns
    -------
    Segments
    """
    volumes = np.cumsum([0, *(run.n_volumes for run in runs)])
    kept = np.cumsum([0, *(run.n_kept for run in runs)])
    edges = [run.edges[:-1] + n for run, n in zip(runs, kept[:-1], strict=True)]
    return Segments(
        int(volumes[-1]),
        np.concatenate([run.kept + n for run, n in zip(runs, volumes[:-1], strict=True)]),
        np.concatenate([*edges, kept[-1:]]),
    )
