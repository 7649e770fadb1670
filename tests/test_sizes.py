"""Plans: pure integers, whose properties hold for any size."""

import doctest
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chunkglm.blocks as blocks
import chunkglm.memory as memory
import chunkglm.sizes as sizes
from chunkglm.blocks import (
    block_volumes,
    chunks_held,
    smoothed_volumes,
    source_block,
)
from chunkglm.memory import (
    Reading,
    Smoothing,
    Solving,
    conversion_bytes,
    fit_bytes,
    reading,
    reading_bytes,
)
from chunkglm.sizes import (
    conversion_buffer,
    even_blocks,
    map_planes,
    moment_bytes,
    parts,
    slabs,
    store_chunks,
    whole_blocks,
)

counts = st.integers(1, 5000)
shapes = st.tuples(
    st.integers(1, 400), st.integers(1, 400), st.integers(1, 300), st.integers(1, 20_000)
)


def test_sizes__examples_in_its_documentation_hold() -> None:
    for module in (sizes, blocks, memory):
        found = doctest.testmod(module)
        assert found.attempted >= 6
        assert found.failed == 0


@given(n=counts, largest=counts)
def test_parts__are_the_fewest_of_at_most_the_largest(n: int, largest: int) -> None:
    length = parts(n, largest)
    assert 1 <= length <= min(n, largest)
    assert -(-n // length) == -(-n // min(n, largest))


@given(n=counts, largest=counts)
def test_even_blocks__cover_all_once_and_are_even(n: int, largest: int) -> None:
    blocks = even_blocks(n, largest)
    assert list(chain(*blocks)) == list(range(n))
    lengths = [len(b) for b in blocks]
    assert max(lengths) <= largest
    assert max(lengths) - min(lengths) <= 1
    assert len(blocks) == -(-n // largest)


@given(n=counts, length=counts)
def test_whole_blocks__cover_all_once_and_begin_at_multiples(n: int, length: int) -> None:
    blocks = whole_blocks(n, length)
    assert list(chain(*blocks)) == list(range(n))
    assert all(b.start % length == 0 and 0 < len(b) <= length for b in blocks)


@given(shape=shapes, itemsize=st.sampled_from([1, 2, 4, 8]), buffer=st.integers(1, 10**9))
def test_store_chunks__keep_their_bounds(
    shape: tuple[int, int, int, int], itemsize: int, buffer: int
) -> None:
    x, y, slab, block = store_chunks(shape, itemsize, buffer)
    assert (x, y) == shape[:2]
    assert 1 <= slab <= shape[2]
    assert 1 <= block <= shape[3]
    volume = shape[0] * shape[1] * shape[2] * itemsize
    assert block * volume <= buffer or block == 1
    plane = x * y * itemsize * block
    assert slab * plane <= sizes.CHUNK_BYTES or slab == 1


@given(shape=shapes, itemsize=st.sampled_from([1, 2, 4, 8]))
def test_store_chunks__are_no_smaller_than_they_must_be(
    shape: tuple[int, int, int, int], itemsize: int
) -> None:
    x, y, slab, block = store_chunks(shape, itemsize)
    # One volume more, or one plane, would be too much for the buffer or the chunk; parts are even,
    # so that up to half of what would fit is left.
    volume, plane = x * y * shape[2] * itemsize, x * y * itemsize
    deep = plane * min(shape[2], sizes.CHUNK_PLANES)
    assert (
        block == shape[3]
        or 2 * block * volume + volume > sizes.BUFFER_BYTES
        or 2 * block * deep + deep > sizes.CHUNK_BYTES
    )
    assert slab == shape[2] or 2 * slab * plane * block + plane * block > sizes.CHUNK_BYTES


planes_of_voxels = st.lists(st.one_of(st.just(0), st.integers(0, 40_000)), min_size=1, max_size=80)


@given(
    voxels=planes_of_voxels,
    size=st.integers(1, 2000),
    unit=st.integers(1, 12),
)
def test_slabs__cover_all_planes_once_and_never_mix(
    voxels: list[int], size: int, unit: int
) -> None:
    found = slabs(voxels, size, unit)
    assert list(chain(*found)) == list(range(len(voxels)))
    assert all(len(planes) for planes in found)
    assert all(planes.start % unit == 0 for planes in found)
    for planes in found:
        units = [
            sum(voxels[first : min(first + unit, planes.stop)])
            for first in range(planes.start, planes.stop, unit)
        ]
        # What is read together has voxels in each unit, or in none.
        assert all(units) or not any(units)
        # No slab is larger than the limit, save one that cannot be cut.
        assert sum(units) * size <= sizes.SLAB_BYTES or len(units) == 1


@given(voxels=planes_of_voxels, size=st.integers(1, 2000), unit=st.integers(1, 12))
def test_slabs__without_voxels_are_not_cut_up(voxels: list[int], size: int, unit: int) -> None:
    found = slabs(voxels, size, unit)
    empty = [not any(voxels[p.start : p.stop]) for p in found]
    assert not any(a and b for a, b in pairwise(empty))


@given(n=st.integers(1, 10**6), scans=st.integers(1, 20_000))
def test_block_volumes__keep_their_bounds(n: int, scans: int) -> None:
    found = block_volumes(n, scans)
    assert 1 <= found <= scans
    smallest = min(blocks.SMALLEST_BLOCK, scans)
    assert found == smallest or 8 * n * found <= blocks.SERIES_BYTES


@given(volume=st.integers(1, 10**9), scans=st.integers(1, 20_000))
def test_block_volumes__bound_what_is_read_whatever_the_mask(volume: int, scans: int) -> None:
    found = block_volumes(1, scans, volume)
    assert found == 1 or volume * found <= blocks.LARGEST_BLOCK_BYTES


@given(scans=st.integers(100, 10**6), n=st.integers(1, 10**6), volume=st.integers(1, 10**8))
def test_block_volumes__do_not_grow_with_the_run(scans: int, n: int, volume: int) -> None:
    longest = max(blocks.SERIES_BYTES // (8 * n), blocks.SMALLEST_BLOCK)
    assert block_volumes(n, scans, volume) <= longest
    if scans > longest:
        assert block_volumes(n, scans, volume) == block_volumes(n, 10 * scans, volume)


@given(
    read=st.integers(1, 500),
    scans=st.integers(1, 5000),
    rank=st.integers(1, 300),
    lags=st.integers(0, 3),
    volume=st.integers(1, 10**9),
)
def test_smoothed_volumes__bound_what_is_held(
    read: int, scans: int, rank: int, lags: int, volume: int
) -> None:
    found = smoothed_volumes(read, scans, rank, lags, volume)
    assert 1 <= found <= scans
    assert found <= read or found * volume <= blocks.SMOOTHED_BYTES


@given(n=st.integers(1, 500), chunk=st.integers(1, 10_000), volume=st.integers(1, 10**7))
def test_source_block__is_whole_chunks_or_small(n: int, chunk: int, volume: int) -> None:
    found = source_block(n, chunk, volume)
    assert found == n or (found % chunk == 0 and found * volume <= blocks.LARGEST_BLOCK_BYTES)


@given(chunks=st.lists(st.integers(1, 50), min_size=1), data=st.data())
def test_chunks_held__hold_a_stretch_wherever_it_begins(chunks: list[int], data: Any) -> None:
    n = sum(chunks)
    wanted = data.draw(st.integers(1, n))
    first = data.draw(st.integers(0, n - wanted))
    edges = [0, *accumulate(chunks)]
    touched = [b - a for a, b in pairwise(edges) if a < first + wanted and b > first]
    found = chunks_held(chunks, wanted)
    assert sum(touched) <= found <= n


@given(plane=st.integers(0, 10**9))
def test_map_planes__keep_their_bound(plane: int) -> None:
    found = map_planes(plane)
    assert found == 1 or found * plane <= sizes.MAPS_BYTES


@given(limit=st.integers(0, 10**10), volume=st.integers(1, 10**8))
def test_conversion_buffer__keeps_the_limit(limit: int, volume: int) -> None:
    buffer = conversion_buffer(limit, volume)
    assert buffer >= volume
    assert conversion_bytes(buffer, buffer) <= limit or buffer == volume


tasks = st.builds(
    reading,
    n_voxels=st.integers(1, 10**6),
    rank=st.integers(1, 50),
    n_lags=st.integers(0, 3),
    moments=st.integers(0, 10**8),
    n_scans=st.integers(2, 5000),
    volume=st.integers(1, 10**7),
    chunk_volumes=st.integers(1, 100),
    chunk=st.integers(0, 10**7),
    forward_only=st.booleans(),
    smoothing=st.none()
    | st.builds(
        Smoothing,
        threads=st.integers(1, 2),
        largest=st.integers(1, 10**5),
        numbers=st.integers(0, 10**6),
        handed=st.integers(1, 10**7),
    ),
)


@given(found=st.lists(tasks, max_size=6), threads=st.integers(1, 8))
def test_fit_bytes__grow_with_tasks_and_threads(found: list[Reading], threads: int) -> None:
    solvings = [Solving((1000, 2000), 7)] * 6
    needed = fit_bytes(found, solvings, 10**5, 10**6, 10**6, threads)
    assert needed >= sizes.PROCESS_BYTES + max(map(reading_bytes, found), default=0)
    assert fit_bytes(found, solvings, 10**5, 10**6, 10**6, threads + 1) >= needed
    assert fit_bytes(found[1:], solvings, 10**5, 10**6, 10**6, threads) <= needed


@pytest.mark.parametrize("n_segments", [1, 3])
@pytest.mark.parametrize(("rank", "lags"), [(1, 0), (12, 0), (12, 1), (300, 1), (5, 3)])
def test_moment_bytes__count_the_arrays(rank: int, lags: int, n_segments: int) -> None:
    from chunkglm.kernels.factor import ShiftedBasis
    from chunkglm.kernels.segments import joined, whole_run
    from chunkglm.lazy.moments import moments_fields

    runs = joined([whole_run(400)] * n_segments)
    basis = ShiftedBasis(np.zeros((lags + 1, rank, runs.n_kept)), runs)
    numbers = 0
    for field in moments_fields(basis).values():
        n = 1
        for length in field.leading:
            n *= length
        numbers += n
    assert moment_bytes(rank, lags, n_segments) == 8 * numbers
