"""Conversion: the same numbers, and never half a store."""

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from helpers_lazy import SHAPE, make_data, make_design, names_in, one_line, truth_of, write_run

import chunkglm as cg
from chunkglm.errors import ImageError, MemoryLimitError, StoreError
from chunkglm.io.manifest import RecordingStore
from chunkglm.sizes import BUFFERS_ALIVE, PROCESS_BYTES, store_chunks


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run.nii.gz", slope=np.float32(0.3), intercept=np.float32(5.1))


def convert(source: Path, store: Path, **kwargs: Any) -> str:
    return cg.convert(source, store, progress=False, **kwargs)


def test_convert__gives_the_values_of_its_source(tmp_path: Path, source: Path) -> None:
    store = convert(source, tmp_path / "run.zarr")
    assert store == str(tmp_path / "run.zarr")
    run, expected = cg.open_run(store), cg.open_run(source)
    assert run.to_numpy().tobytes() == expected.to_numpy().tobytes()
    assert np.array_equal(run.to_numpy(), truth_of(source))
    for name in ("affine", "repetition_time"):
        assert run.attrs[name] == expected.attrs[name]
    xr.testing.assert_equal(run["time"], expected["time"])
    assert zarr.open_array(Path(store) / "bold", mode="r").dtype == np.int16


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("scaled", [False, True])
def test_open_zarr__reads_the_scaled_values(tmp_path: Path, dtype: str, scaled: bool) -> None:
    data = make_data(dtype=dtype)
    data[0, 0] = 0  # zarr's fill value must not be taken for missing
    slope = {"slope": np.float32(0.3), "intercept": np.float32(-4.5)} if scaled else {}
    path = write_run(tmp_path / "run.nii", data, **slope)
    store = convert(path, tmp_path / "run.zarr")
    found = xr.open_zarr(store, consolidated=False)["bold"]
    assert found.dims == ("x", "y", "z", "time")
    assert np.isfinite(found).all()
    # xarray multiplies in float64, or float32 for small integers it deems to fit.
    np.testing.assert_allclose(found.to_numpy(), truth_of(path), rtol=1e-6)
    assert found["time"].to_numpy().tolist() == [2.0 * t for t in range(30)]


def test_convert__takes_its_chunks_from_the_sizes(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A volume has 240 bytes, a plane 40.
    monkeypatch.setattr("chunkglm.sizes.CHUNK_BYTES", 150)
    monkeypatch.setattr("chunkglm.sizes.BUFFER_BYTES", 800)
    store = convert(source, tmp_path / "run.zarr")
    chunks = zarr.open_array(Path(store) / "bold", mode="r").chunks
    assert chunks == store_chunks(SHAPE, 2, 800)
    assert chunks[:2] == SHAPE[:2]
    assert chunks[2] < SHAPE[2]
    assert chunks[3] < SHAPE[3]
    assert cg.open_run(store).to_numpy().tobytes() == cg.open_run(source).to_numpy().tobytes()


# --- what is in the way -----------------------------------------------------------------------


def test_convert__refuses_an_existing_store_without_overwrite(tmp_path: Path, source: Path) -> None:
    store = convert(source, tmp_path / "run.zarr")
    written = zarr.open_group(store, mode="r").attrs["written"]
    with pytest.raises(StoreError) as caught:
        convert(source, tmp_path / "run.zarr")
    one_line(caught.value, store, "overwrite=True")
    assert zarr.open_group(store, mode="r").attrs["written"] == written


def test_convert__replaces_with_overwrite(tmp_path: Path, source: Path) -> None:
    store = convert(source, tmp_path / "run.zarr")
    other = write_run(tmp_path / "other.nii", make_data((3, 3, 3, 9), "f4"))
    convert(other, tmp_path / "run.zarr", overwrite=True)
    assert np.array_equal(cg.open_run(store).to_numpy(), truth_of(other))
    assert names_in(tmp_path) == ["other.nii", "run.nii.gz", "run.zarr"]
    # Where there is nothing to overwrite it is no error.
    convert(other, tmp_path / "new.zarr", overwrite=True)


def test_convert__that_fails_keeps_the_old_store_whole(tmp_path: Path, source: Path) -> None:
    store = convert(source, tmp_path / "run.zarr")
    before = {p: p.read_bytes() for p in Path(store).rglob("*") if p.is_file()}
    broken = write_run(tmp_path / "broken.nii.gz", make_data(seed=1))
    broken.write_bytes(broken.read_bytes()[:-4])
    with pytest.raises(ImageError) as caught:
        convert(broken, tmp_path / "run.zarr", overwrite=True)
    one_line(caught.value, broken)
    assert {p: p.read_bytes() for p in Path(store).rglob("*") if p.is_file()} == before
    assert names_in(tmp_path) == ["broken.nii.gz", "run.nii.gz", "run.zarr"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_convert__leaves_other_files_and_folders_alone(
    tmp_path: Path, source: Path, overwrite: bool
) -> None:
    (tmp_path / "file.zarr").write_text("precious")
    (tmp_path / "folder.zarr").mkdir()
    (tmp_path / "folder.zarr" / "thesis.txt").write_text("precious")
    for name in ("file.zarr", "folder.zarr"):
        with pytest.raises(StoreError) as caught:
            convert(source, tmp_path / name, overwrite=overwrite)
        one_line(caught.value, tmp_path / name, "is not a store", "left as it is")
    assert (tmp_path / "file.zarr").read_text() == "precious"
    assert names_in(tmp_path / "folder.zarr") == ["thesis.txt"]


def test_convert__refuses_a_folder_that_is_not_there(tmp_path: Path, source: Path) -> None:
    with pytest.raises(StoreError) as caught:
        convert(source, tmp_path / "none" / "run.zarr")
    one_line(caught.value, tmp_path / "none" / "run.zarr", "does not exist")
    assert names_in(tmp_path) == ["run.nii.gz"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_convert__refuses_to_write_over_its_source(
    tmp_path: Path, source: Path, overwrite: bool
) -> None:
    before = source.read_bytes()
    (tmp_path / "link").symlink_to(source)
    for target in (source, tmp_path / "link", tmp_path / "." / "run.nii.gz"):
        with pytest.raises(StoreError) as caught:
            convert(source, target, overwrite=overwrite)
        one_line(caught.value, target, "the same")
    assert source.read_bytes() == before


@pytest.mark.parametrize("name", ["none.nii", "folder", "run.zarr"])
def test_convert__refuses_a_source_that_is_no_file(tmp_path: Path, source: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    convert(source, tmp_path / "run.zarr")
    with pytest.raises(ImageError) as caught:
        convert(tmp_path / name, tmp_path / "out.zarr")
    one_line(caught.value, tmp_path / name)
    assert "out.zarr" not in names_in(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_convert__refuses_a_read_only_folder(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    try:
        with pytest.raises(StoreError) as caught:
            convert(source, folder / "run.zarr")
    finally:
        folder.chmod(0o700)
    one_line(caught.value, folder, "cannot be written to")


def test_convert__refuses_a_folder_that_the_system_says_is_read_only(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(StoreError) as caught:
        convert(source, tmp_path / "run.zarr")
    one_line(caught.value, tmp_path, "cannot be written to")


# --- memory -----------------------------------------------------------------------------------


def test_convert__refuses_a_memory_limit_below_one_volume(tmp_path: Path, source: Path) -> None:
    volume = int(np.prod(SHAPE[:3])) * 2
    needed = PROCESS_BYTES + BUFFERS_ALIVE * volume
    with pytest.raises(MemoryLimitError) as caught:
        convert(source, tmp_path / "run.zarr", memory_limit=needed - BUFFERS_ALIVE)
    one_line(caught.value, source, needed, needed - BUFFERS_ALIVE)
    assert names_in(tmp_path) == ["run.nii.gz"]
    store = convert(source, tmp_path / "run.zarr", memory_limit=needed)
    assert zarr.open_array(Path(store) / "bold", mode="r").chunks[3] == 1
    assert cg.open_run(store).to_numpy().tobytes() == cg.open_run(source).to_numpy().tobytes()


@pytest.mark.parametrize("limit", ["1GB", "1.5 gb", "2 GiB", 10**9, 1e9, np.int64(10**9), "500m"])
def test_convert__reads_amounts_of_memory(tmp_path: Path, source: Path, limit: Any) -> None:
    convert(source, tmp_path / "run.zarr", memory_limit=limit)


@pytest.mark.parametrize("limit", ["", "much", "nan", "inf", "GB", [1], "1 2", -5, 0, "0"])
def test_convert__refuses_other_amounts(tmp_path: Path, source: Path, limit: Any) -> None:
    with pytest.raises(MemoryLimitError) as caught:
        convert(source, tmp_path / "run.zarr", memory_limit=limit)
    one_line(caught.value, "memory")
    assert names_in(tmp_path) == ["run.nii.gz"]


# --- interruption -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(28, "No space left on device"), StoreError),
        (OSError(5, "Input/output error"), StoreError),
    ],
)
def test_convert__that_is_interrupted_leaves_nothing_behind(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    raised: type[BaseException],
) -> None:
    original = RecordingStore.put

    def fail(self: Any, key: str, data: bytes) -> None:
        original(self, key, data)
        raise error

    monkeypatch.setattr(RecordingStore, "put", fail)
    with pytest.raises(raised) as caught:
        convert(source, tmp_path / "run.zarr")
    if raised is StoreError:
        one_line(caught.value, tmp_path / "run.zarr")
    assert names_in(tmp_path) == ["run.nii.gz"]
    assert not [t for t in threading.enumerate() if t.name.startswith("chunkglm-")]


def test_convert__writes_beside_and_renames_last(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import chunkglm.io.folder as module

    seen = []
    original = module._put_in_place

    def watched(beside: Path, path: Path) -> None:
        seen.append((path.exists(), beside.parent == path.parent, beside.name[0]))
        shutil.copytree(beside, tmp_path / "copy.zarr")
        original(beside, path)

    monkeypatch.setattr(module, "_put_in_place", watched)
    convert(source, tmp_path / "run.zarr")
    assert seen == [(False, True, ".")]
    # All of it was there before the renaming.
    assert np.array_equal(cg.open_run(tmp_path / "copy.zarr").to_numpy(), truth_of(source))


def test_convert__does_not_touch_its_source(tmp_path: Path, source: Path) -> None:
    before = (source.read_bytes(), source.stat().st_mtime_ns)
    store = convert(source, tmp_path / "run.zarr")
    cg.contrast(cg.fit(store, make_design()), "a").compute()
    assert (source.read_bytes(), source.stat().st_mtime_ns) == before
