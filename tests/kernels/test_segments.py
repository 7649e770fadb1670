"""Which volumes count, and where they are paired."""

from itertools import pairwise

import numpy as np
from helpers.gaps import segments_of
from hypothesis import given
from hypothesis import strategies as st

from chunkglm.kernels.segments import joined, segments_of_mask, whole_run

masks = st.lists(st.booleans(), min_size=1, max_size=40).filter(any).map(np.array)


@given(keep=masks, lag=st.integers(0, 6))
def test_segments__are_runs_of_consecutive_volumes(keep: np.ndarray, lag: int) -> None:
    segments = segments_of_mask(keep)
    expected = segments_of(keep)
    assert segments.n_volumes == keep.size
    assert segments.n_kept == keep.sum()
    assert (segments.keep == keep).all()
    assert segments.n_segments == len(expected)
    assert segments.lengths.tolist() == [len(s) for s in expected]
    assert segments.kept.tolist() == [t for s in expected for t in s]
    assert segments.labels.tolist() == [i for i, s in enumerate(expected) for _ in s]
    pairs = sum(t + lag in s for s in expected for t in s)
    assert segments.n_pairs(lag) == pairs
    ages = segments.ages
    assert all(ages[t] == t - s[0] for s in expected for t in s)


@given(keep=masks, lag=st.integers(0, 6))
def test_shift__pairs_volumes_of_the_same_segment(keep: np.ndarray, lag: int) -> None:
    segments = segments_of_mask(keep)
    x = np.random.default_rng(0).standard_normal((segments.n_kept, 2))
    same = segments.labels[:, None] == segments.labels
    apart = np.abs(np.subtract.outer(segments.kept, segments.kept))
    np.testing.assert_allclose(segments.shift(x, lag), (same & (apart == lag)) @ x, atol=1e-15)


@given(keep=masks, n=st.integers(0, 5))
def test_heads_and_tails__are_padded_outside_of_the_segment(keep: np.ndarray, n: int) -> None:
    segments = segments_of_mask(keep)
    x = 1.0 + segments.kept
    heads, tails = segments.heads(x, n), segments.tails(x, n)
    for s, volumes in enumerate(segments_of(keep)):
        padding = [0.0] * n
        values = [1.0 + t for t in volumes]
        assert heads[s].tolist() == (values + padding)[:n]
        assert tails[s].tolist() == (padding + values)[len(values) :]


@given(keep=masks, cuts=st.lists(st.integers(0, 40), max_size=5))
def test_pieces__of_any_blocks_are_the_segments(keep: np.ndarray, cuts: list[int]) -> None:
    segments = segments_of_mask(keep)
    edges = sorted({0, keep.size, *(c for c in cuts if c < keep.size)})
    found: list[list[int]] = [[] for _ in range(segments.n_segments)]
    for first, stop in pairwise(edges):
        position, rows = segments.within(first, stop)
        assert position == keep[:first].sum()
        assert rows.tolist() == np.flatnonzero(keep[first:stop]).tolist()
        for piece in segments.pieces(position, rows.size):
            assert piece.position == len(found[piece.segment])
            found[piece.segment] += (first + rows[piece.rows]).tolist()
    assert found == segments_of(keep)


@given(first=masks, second=masks)
def test_joined__runs_do_not_touch(first: np.ndarray, second: np.ndarray) -> None:
    segments = joined([segments_of_mask(first), segments_of_mask(second)])
    both = np.concatenate([first, second])
    assert (segments.keep == both).all()
    lengths = [len(s) for keep in (first, second) for s in segments_of(keep)]
    assert segments.lengths.tolist() == lengths
    # The volumes on either side of the border are no pair.
    assert segments.n_pairs(1) == sum(n - 1 for n in lengths)


def test_whole_run__is_one_segment() -> None:
    segments = whole_run(7)
    assert segments.keep.all()
    assert segments.lengths.tolist() == [7]
    x = np.arange(7.0)
    np.testing.assert_array_equal(segments.on_run(x), x)
    gap = segments_of_mask(x != 3)
    np.testing.assert_array_equal(gap.on_run(x[x != 3]), np.where(x != 3, x, np.nan))
