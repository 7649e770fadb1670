"""Stores: what is read is what was written, and anything else is refused."""

import base64
import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from helpers_lazy import SHAPE, make_data, names_in, one_line, store_chunkings, write_run
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkglm.errors import StoreError
from chunkglm.io.chunks import ChunkReader
from chunkglm.io.manifest import NAME, Manifest, read_manifest
from chunkglm.io.nifti import open_nifti
from chunkglm.io.place import place_of
from chunkglm.io.store import BOLD, StoreRun, write_store
from chunkglm.io.store import open_store as open_place

CHUNKS = (5, 4, 2, 10)
FULL = range(SHAPE[2])


def open_store(path: Path) -> StoreRun:
    return open_place(place_of(path))


def ignore(_: int) -> None:
    pass


def make_store(folder: Path, chunks: Any = CHUNKS, name: str = "run.zarr", **kwargs: Any) -> Path:
    run = open_nifti(write_run(folder / "source.nii", **kwargs))
    write_store(run, place_of(folder / name), chunks, overwrite=True, advance=ignore)
    return folder / name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """A store of the test's own, to damage."""
    shutil.copytree(whole, tmp_path / "run.zarr")
    return tmp_path / "run.zarr"


def edit_attributes(store: Path, change: Any) -> None:
    """Change a store's attributes, and its manifest with them, as another version might write."""
    metadata, manifest = store / "zarr.json", store / BOLD / NAME
    found = json.loads(metadata.read_text())
    change(found["attributes"])
    metadata.write_text(json.dumps(found))
    entries = dict(read_manifest(place_of(store).open(read_only=True), str(store)).entries)
    content = metadata.read_bytes()
    entries["zarr.json"] = (len(content), zlib.crc32(content))
    manifest.write_bytes(Manifest(entries, f"{BOLD}/{NAME}").to_bytes())


# --- what is read -----------------------------------------------------------------------------


@given(
    chunks=store_chunkings,
    n_volumes=st.integers(1, 40),
    planes=st.sets(st.integers(0, SHAPE[2]), min_size=2, max_size=2),
)
@settings(max_examples=15, deadline=None)
def test_blocks__hold_the_run_whatever_the_chunks(
    tmp_path_factory: pytest.TempPathFactory,
    chunks: tuple[int, int, int, int],
    n_volumes: int,
    planes: set[int],
) -> None:
    run = open_store(make_store(tmp_path_factory.mktemp("any"), chunks))
    wanted = range(*sorted(planes))
    blocks = [(first, block.copy()) for first, block in run.blocks(wanted, n_volumes)]
    expected = make_data()[:, :, wanted.start : wanted.stop]
    assert np.array_equal(np.concatenate([b for _, b in blocks]).T, expected)
    lengths = [b.shape[0] for _, b in blocks]
    assert [first for first, _ in blocks] == np.cumsum([0, *lengths[:-1]]).tolist()
    assert max(lengths) <= max(n_volumes, chunks[3])
    assert np.array_equal(run.read(wanted, 3, 17).T, expected[..., 3:17])


def test_open_store__tells_what_the_source_told(tmp_path: Path) -> None:
    path = make_store(tmp_path, slope=np.float32(0.3), intercept=np.float32(-7.7), t_r=1.5)
    source, run = open_nifti(tmp_path / "source.nii"), open_store(path)
    for name in ("shape", "dtype", "slope", "intercept", "affine", "t_r", "header"):
        assert getattr(run, name) == getattr(source, name), name
    assert run.chunks == CHUNKS
    assert run.plane_unit == 2
    assert not run.forward_only


def test_write_store__keeps_integers_and_big_endian_floats(tmp_path: Path) -> None:
    for dtype, endian in ((np.int16, ">"), (np.uint8, "<"), (np.float32, ">"), (np.int64, "<")):
        path = make_store(tmp_path, data=make_data(dtype=dtype), endian=endian)
        array = zarr.open_array(path / BOLD, mode="r")
        assert array.dtype == np.dtype(dtype)
        assert np.array_equal(array[:], make_data(dtype=dtype))


def test_write_store__writes_chunks_of_zeros_too(tmp_path: Path) -> None:
    # Else a run with an empty plane would look like one that lost a chunk.
    data = make_data()
    data[:, :, :2] = 0
    run = open_store(make_store(tmp_path, data=data))
    assert np.array_equal(run.read(FULL, 0, 30).T, data)


def test_write_store__compresses(tmp_path: Path) -> None:
    data = np.repeat(make_data(), 20, axis=3)
    path = make_store(tmp_path, chunks=(5, 4, 6, 600), data=data)
    stored = sum(p.stat().st_size for p in (path / BOLD / "c").rglob("*") if p.is_file())
    assert stored < 0.8 * data.nbytes


# --- what is refused on opening ---------------------------------------------------------------


def test_open_store__refuses_what_is_not_there_or_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "file.zarr").write_text("text")
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "text.zarr").mkdir()
    (tmp_path / "text.zarr" / "zarr.json").write_text("not JSON")
    (tmp_path / "list.zarr").mkdir()
    (tmp_path / "list.zarr" / "zarr.json").write_text("[1, 2]")
    zarr.create_array(str(tmp_path / "array.zarr"), shape=(3,), dtype="f4")
    zarr.create_group(str(tmp_path / "group.zarr"))
    for name in ("none", "file", "empty", "text", "list", "array", "group"):
        with pytest.raises(StoreError) as caught:
            open_store(tmp_path / f"{name}.zarr")
        one_line(caught.value, tmp_path / f"{name}.zarr", "make ")


@pytest.mark.parametrize("value", [None, 0, 2, "1"])
def test_open_store__refuses_other_formats(store: Path, value: object) -> None:
    edit_attributes(store, lambda a: a.update(chunkglm_format=value))
    with pytest.raises(StoreError) as caught:
        open_store(store)
    one_line(caught.value, store, repr(value), "format 1")


@pytest.mark.parametrize("name", ["affine", "repetition_time", "nifti_header", "written"])
def test_open_store__refuses_missing_attributes(store: Path, name: str) -> None:
    edit_attributes(store, lambda a: a.pop(name))
    with pytest.raises(StoreError) as caught:
        open_store(store)
    one_line(caught.value, store, name, "make the store again")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("affine", None),
        ("affine", [["a"]]),
        ("repetition_time", "long"),
        ("nifti_header", "*"),
    ],
)
def test_open_store__refuses_damaged_attributes(store: Path, name: str, value: object) -> None:
    edit_attributes(store, lambda a: a.update({name: value}))
    with pytest.raises(StoreError) as caught:
        open_store(store)
    one_line(caught.value, store, "make the store again")


def test_open_store__refuses_a_group_without_the_run(store: Path) -> None:
    shutil.rmtree(store / BOLD)
    with pytest.raises(StoreError) as caught:
        open_store(store)
    one_line(caught.value, store, NAME)


def test_open_store__refuses_a_store_with_a_missing_chunk(store: Path) -> None:
    (store / BOLD / "c/0/0/1/2").unlink()
    with pytest.raises(StoreError) as caught:
        open_store(store)
    one_line(caught.value, store, "1 of 13 keys (chunks and metadata) are missing", "c/0/0/1/2")


# --- what happens to it after it was opened ---------------------------------------------------


def test_read__refuses_a_chunk_that_went_missing(store: Path) -> None:
    run = open_store(store)
    (store / BOLD / "c/0/0/1/2").unlink()
    for attempt in (lambda: run.read(FULL, 0, 30), lambda: list(run.blocks(range(3, 4), 30))):
        with pytest.raises(StoreError) as caught:
            attempt()
        one_line(caught.value, store, "c/0/0/1/2", "missing")


def test_read__does_not_touch_chunks_outside_what_is_asked(store: Path) -> None:
    run = open_store(store)
    for gone in (store / BOLD / "c/0/0/0").iterdir():
        gone.unlink()
    (store / BOLD / "c/0/0/2/0").unlink()
    expected = make_data()
    assert np.array_equal(run.read(range(2, 4), 0, 30).T, expected[:, :, 2:4])
    assert np.array_equal(run.read(range(2, 6), 10, 30).T, expected[:, :, 2:6, 10:])


@pytest.mark.parametrize("content", [b"", b"short", bytes(100), os.urandom(500)])
def test_read__refuses_a_chunk_that_cannot_be_decoded(store: Path, content: bytes) -> None:
    (store / BOLD / "c/0/0/1/2").write_bytes(content)
    with pytest.raises(StoreError) as caught:
        open_store(store).read(FULL, 0, 30)
    one_line(caught.value, store, "bold/c/0/0/1/2", "make the store again")


def test_read__refuses_a_truncated_chunk(store: Path) -> None:
    chunk = store / BOLD / "c/0/0/1/2"
    chunk.write_bytes(chunk.read_bytes()[:-20])
    with pytest.raises(StoreError) as caught:
        open_store(store).read(FULL, 0, 30)
    one_line(caught.value, store, "bold/c/0/0/1/2", "make the store again")


def test_read__refuses_a_store_that_was_written_anew(tmp_path: Path) -> None:
    path = make_store(tmp_path)
    run = open_store(path)
    make_store(tmp_path, data=make_data(seed=1))
    for attempt in (lambda: run.read(FULL, 0, 30), lambda: list(run.blocks(FULL, 30))):
        with pytest.raises(StoreError) as caught:
            attempt()
        one_line(caught.value, path, "written anew", "open it again")


def test_blocks__refuse_a_store_that_is_replaced_between_two_blocks(tmp_path: Path) -> None:
    path = make_store(tmp_path)
    blocks = open_store(path).blocks(FULL, 10)
    next(blocks)
    make_store(tmp_path, data=make_data(seed=1))
    with pytest.raises(StoreError, match="written anew"):
        next(blocks)


def test_read__refuses_a_store_that_is_replaced_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_store(tmp_path)
    run = open_store(path)
    original = ChunkReader.read

    def replaced(self: ChunkReader, *wanted: Any) -> Any:
        monkeypatch.setattr(ChunkReader, "read", original)
        make_store(tmp_path, data=make_data(seed=1))
        return original(self, *wanted)

    monkeypatch.setattr(ChunkReader, "read", replaced)
    with pytest.raises(StoreError, match="written anew"):
        run.read(FULL, 0, 30)


def test_read__refuses_a_store_that_is_gone(store: Path) -> None:
    run = open_store(store)
    shutil.rmtree(store)
    with pytest.raises(StoreError) as caught:
        run.read(FULL, 0, 30)
    one_line(caught.value, store)


# --- writing ----------------------------------------------------------------------------------


def test_write_store__leaves_the_old_store_whole_when_renaming_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_store(tmp_path)
    original = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    run = open_nifti(write_run(tmp_path / "other.nii", make_data(seed=1)))
    with pytest.raises(StoreError) as caught:
        write_store(run, place_of(path), CHUNKS, overwrite=True, advance=ignore)
    monkeypatch.undo()
    one_line(caught.value, path, "Input/output error", "unchanged")
    assert np.array_equal(open_store(path).read(FULL, 0, 30).T, make_data())
    assert names_in(tmp_path) == ["other.nii", "run.zarr", "source.nii"]


def test_write_store__replaces_the_store_that_a_link_points_to(tmp_path: Path) -> None:
    target = make_store(tmp_path, name="target.zarr")
    (tmp_path / "link.zarr").symlink_to(target)
    run = open_nifti(write_run(tmp_path / "other.nii", make_data(seed=1)))
    write_store(run, place_of(tmp_path / "link.zarr"), CHUNKS, overwrite=True, advance=ignore)
    assert (tmp_path / "link.zarr").is_symlink()
    assert np.array_equal(open_store(target).read(FULL, 0, 30).T, make_data(seed=1))
    assert names_in(tmp_path) == ["link.zarr", "other.nii", "source.nii", "target.zarr"]


def test_write_store__holds_the_source_s_header(tmp_path: Path) -> None:
    path = make_store(tmp_path)
    attrs = dict(zarr.open_group(str(path), mode="r").attrs)
    header = base64.b64decode(str(attrs["nifti_header"]))
    assert header == (tmp_path / "source.nii").read_bytes()[:352]
    assert attrs["source"]["name"] == "source.nii"  # type: ignore[index,call-overload]
    assert attrs["source"]["size"] == 352 + make_data().nbytes  # type: ignore[index,call-overload]
