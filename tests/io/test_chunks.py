"""Reading chunks into memory that is used again: what zarr reads, whatever the codecs."""

from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc
from zarr.codecs import BloscCodec, BytesCodec, ZstdCodec
from zarr.storage import MemoryStore

from chunkglm.io.chunks import ChunkReader

SHAPE = (4, 3, 7, 23)
BLOSC = BloscCodec(typesize=2, cname="lz4", shuffle="bitshuffle")


def make_array(dtype: str = "<i2", chunks: tuple[int, ...] = (4, 3, 3, 5), **options: Any) -> Any:
    values = np.random.default_rng(0).integers(0, 100, SHAPE)
    options = {"compressors": BLOSC, **options}
    array = zarr.create_array(
        MemoryStore(), name="bold", shape=SHAPE, chunks=chunks, dtype=dtype, **options
    )
    array[...] = values
    return array


def some(n: int) -> Any:
    return st.sets(st.integers(0, n), min_size=2, max_size=2).map(lambda ends: range(*sorted(ends)))


parts = st.lists(st.tuples(some(SHAPE[2]), some(SHAPE[3])), min_size=1, max_size=4)


@given(parts=parts, chunks=st.tuples(st.integers(1, 7), st.integers(1, 23)))
@settings(max_examples=40, deadline=None)
def test_read__is_what_zarr_reads(parts: Any, chunks: tuple[int, int]) -> None:
    array = make_array(chunks=(4, 3, *chunks))
    reader = ChunkReader(array)
    assert reader._plain
    for planes, times in parts:  # one reader: what it read before must not be left over
        found = reader.read(planes, times.start, times.stop)
        expected = array[:, :, planes.start : planes.stop, times.start : times.stop]
        assert np.array_equal(found, expected)
        assert found.dtype == expected.dtype


@pytest.mark.parametrize(
    ("plain", "options"),
    [
        (True, {"dtype": "u1"}),
        (True, {"dtype": "<f8", "compressors": BloscCodec(cname="zstd", shuffle="noshuffle")}),
        (False, {"serializer": BytesCodec(endian="big")}),
        (False, {"compressors": ZstdCodec()}),
        (False, {"compressors": None}),
        (False, {"chunks": (4, 3, 1, 5), "shards": (4, 3, 3, 10)}),
        (False, {"chunks": (2, 3, 3, 5)}),
    ],
)
def test_read__leaves_other_codecs_and_chunkings_to_zarr(
    plain: bool, options: dict[str, Any]
) -> None:
    array = make_array(**options)
    reader = ChunkReader(array)
    assert reader._plain is plain
    assert np.array_equal(reader.read(range(1, 6), 3, 20), array[:, :, 1:6, 3:20])
    assert np.array_equal(reader.read(range(3, 5), 10, 14), array[:, :, 3:5, 10:14])


def test_read__takes_neither_a_missing_nor_a_short_chunk_for_numbers() -> None:
    array = make_array()
    store: Any = array.store
    key = "bold/c/0/0/1/2"
    frame = store._store_dict[key]
    short = blosc.compress(b"x" * 100, b"lz4", 5)
    store._store_dict[key] = type(frame).from_bytes(short)
    with pytest.raises(ValueError, match=f"{key} holds 100 bytes and must hold 360"):
        ChunkReader(array).read(range(3, 6), 10, 15)
    del store._store_dict[key]
    with pytest.raises(FileNotFoundError, match=key):
        ChunkReader(array).read(range(3, 6), 10, 15)
