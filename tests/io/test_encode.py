"""Chunks written directly: the bytes that zarr would write, each of them once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from helpers_lazy import make_data, write_run
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import LocalStore, MemoryStore

import chunkglm as cg
from chunkglm.io.encode import ChunkWriter, compressor
from chunkglm.io.manifest import RecordingStore, get, list_keys
from chunkglm.kernels.voxels import time_last
from chunkglm.sizes import whole_blocks

sizes = st.tuples(*[st.integers(1, 9)] * 4)


def make_array(store: Any, shape: Any, chunks: Any, dtype: np.dtype[Any]) -> Any:
    return zarr.create_group(store, zarr_format=3).create_array(
        "bold",
        shape=shape,
        chunks=chunks,
        dtype=dtype.newbyteorder("="),
        compressors=compressor(dtype),
        fill_value=0,
        config={"write_empty_chunks": True},
    )


@given(
    shape=sizes,
    chunks=sizes,
    dtype=st.sampled_from(["i1", "u1", "<i2", ">i2", "u2", "i4", "f4", ">f4", "i8", "f8", ">f8"]),
    seed=st.integers(0, 99),
    local=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_chunks__are_the_bytes_that_zarr_writes(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: str,
    seed: int,
    local: bool,
) -> None:
    chunks = tuple(min(c, n) for c, n in zip(chunks, shape, strict=True))
    kind = np.dtype(dtype)
    volumes = np.random.default_rng(seed).integers(0, 120, shape[::-1]).astype(kind)
    theirs, base = MemoryStore(), MemoryStore()
    make_array(theirs, shape, chunks, kind)[:] = volumes.T
    ours = RecordingStore(LocalStore(tmp_path_factory.mktemp("local")) if local else base)
    writer = ChunkWriter(ours, make_array(ours, shape, chunks, kind))
    for times in whole_blocks(shape[3], chunks[3]):
        for planes in whole_blocks(shape[2], chunks[2]):
            block = volumes[times.start : times.stop, planes.start : planes.stop]
            writer.write(block, planes.start, times.start)
    keys = sorted(list_keys(theirs))
    assert sorted(list_keys(ours)) == sorted(ours.entries) == keys
    for key in keys:
        assert get(ours, key) == get(theirs, key)


@given(
    shape=st.tuples(st.integers(1, 70), *[st.integers(1, 12)] * 3),
    dtype=st.sampled_from(["u1", "<i2", ">i2", "f4", ">f8"]),
    turned=st.sampled_from([1, 40, 1000, 1 << 20]),
)
@settings(max_examples=60, deadline=None)
def test_time_last__is_the_transpose_however_much_is_turned_at_once(
    shape: tuple[int, int, int, int], dtype: str, turned: int
) -> None:
    block = np.random.default_rng(0).integers(0, 99, shape).astype(dtype)
    for part in (block, block[:, : max(1, shape[1] - 1), 1:] if shape[2] > 1 else block):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("chunkglm.kernels.voxels._TURNED_BYTES", turned)
            # As at an array's ends: the chunk is larger than what there is.
            chunk = np.full([n + 2 for n in part.T.shape], 100, block.dtype.newbyteorder("="))
            time_last(part, chunk[tuple(map(slice, part.T.shape))])
        np.testing.assert_array_equal(chunk[tuple(map(slice, part.T.shape))], part.T)
        assert (chunk == 100).sum() == chunk.size - part.size


@pytest.mark.parametrize("n_scans", [30, 31])
def test_convert__writes_each_chunk_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_scans: int
) -> None:
    # Blocks of 10 and 11 volumes would meet chunks of 11 askew, each written in two parts.
    written: list[str] = []
    original = RecordingStore.note

    def noted(self: Any, key: str, data: Any) -> None:
        written.append(key)
        original(self, key, data)

    monkeypatch.setattr(RecordingStore, "note", noted)
    monkeypatch.setattr("chunkglm.glm.runs.store_chunks", lambda *_: (5, 4, 4, 11))
    run = write_run(tmp_path / "run.nii.gz", make_data((5, 4, 6, n_scans)))
    store = cg.convert(run, tmp_path / "run.zarr", progress=False)
    chunks = [key for key in written if key.startswith("bold/c/")]
    assert sorted(chunks) == [f"bold/c/0/0/{z}/{t}" for z in range(2) for t in range(3)]
    assert np.array_equal(cg.open_run(store).to_numpy(), make_data((5, 4, 6, n_scans)))
