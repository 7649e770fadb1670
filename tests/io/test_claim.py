"""One writer at a time behind a URL: refused, taken over, and told when it was taken over."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_lazy import make_data, one_line, write_run
from helpers_s3 import S3
from helpers_store import convert, end, held, start, wait_for

import chunkglm as cg
from chunkglm.errors import StoreError
from chunkglm.io import claim
from chunkglm.io.claim import claimed
from chunkglm.io.place import Place, place_of

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(params=["s3", "memory"])
def place(request: Any, tmp_path: Path) -> Place:
    """Where a store goes, S3 or memory."""
    if request.param == "s3":
        s3 = request.getfixturevalue("s3")
        return place_of(s3.url(f"{tmp_path.name}/s.zarr"), s3.options)
    return place_of(f"memory://{tmp_path.name}/s.zarr")


QUICK_STALE = 1.5  # seconds


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes patience short, if not so short that a busy machine is taken for a dead one."""
    for name, seconds in (("BEAT", 0.2), ("STALE", QUICK_STALE), ("_SETTLE", 0.05)):
        monkeypatch.setattr(claim, name, seconds)


def names(place: Place) -> list[str]:
    """What lies beside the store, and the store."""
    found, inside = fsspec.core.url_to_fs(str(place.url).rpartition("/")[0], **place.options)
    found.invalidate_cache()
    try:
        return sorted({n.removeprefix(f"{inside}/").partition("/")[0] for n in found.find(inside)})
    except FileNotFoundError:
        return []


def leave_lock(place: Place, **note: Any) -> None:
    found, inside = fsspec.core.url_to_fs(place.beside(".s.zarr.lock").url, **place.options)
    left = {"id": "x", "pid": 1, "host": "far", "since": "long ago", "machine": "far away"}
    found.pipe_file(inside, json.dumps({**left, "seen": time.time(), **note}).encode())


def test_second_writer__is_refused_at_once_and_told_who(place: Place) -> None:
    with claimed(place):
        began = time.monotonic()
        with pytest.raises(StoreError) as caught, claimed(place):
            pytest.fail("both hold it")
        assert time.monotonic() - began < claim.BEAT  # which it would wait for, at least
        one_line(caught.value, place.url, f"is being written by process {os.getpid()} on ")
        assert names(place) == [".s.zarr.lock"]
    assert names(place) == []
    with claimed(place):
        pass


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_converters__one_wins_and_the_other_is_told(
    s3: S3, tmp_path: Path, overwrite: bool
) -> None:
    store = place_of(s3.url(f"two-{overwrite}/s.zarr"), s3.options)
    source, other = (write_run(tmp_path / f"{i}.nii.gz", make_data(seed=i)) for i in (0, 1))
    if overwrite:
        convert(other, store.label, False, s3.options)
    first = start(held, tmp_path, convert, source, store.label, overwrite, s3.options)
    wait_for(tmp_path / "started")
    with pytest.raises(StoreError) as caught:
        convert(other, store.label, True, s3.options)
    one_line(caught.value, store.label, f"is being written by process {first.pid} on ")
    (tmp_path / "go").touch()
    assert end(first) == 0
    assert cg.verify(store.label, storage_options=s3.options) == []
    found = cg.open_run(store.label, storage_options=s3.options).to_numpy()
    assert np.array_equal(found, make_data())
    assert names(store) == ["s.zarr"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_writer__is_taken_over_and_its_litter_cleared(
    s3: S3, tmp_path: Path, overwrite: bool
) -> None:
    store = place_of(s3.url(f"killed-{overwrite}/s.zarr"), s3.options)
    source, other = (write_run(tmp_path / f"{i}.nii.gz", make_data(seed=i)) for i in (0, 1))
    if overwrite:
        convert(other, store.label, False, s3.options)
    s3.put(f"killed-{overwrite}/.other.zarr.0.partial/zarr.json", b"of another store")
    first = start(held, tmp_path, convert, source, store.label, overwrite, s3.options)
    wait_for(tmp_path / "started")
    first.kill()
    end(first)
    left = names(store)
    assert ".s.zarr.lock" in left
    if overwrite:
        assert sum(n.startswith(".s.zarr.") and n.endswith(".partial") for n in left) == 1
        found = cg.open_run(store.label, storage_options=s3.options).to_numpy()
        assert np.array_equal(found, make_data(seed=1))
    else:
        with pytest.raises(StoreError, match="incomplete"):
            cg.open_run(store.label, storage_options=s3.options)
    convert(source, store.label, overwrite, s3.options)
    assert cg.verify(store.label, storage_options=s3.options) == []
    found = cg.open_run(store.label, storage_options=s3.options).to_numpy()
    assert np.array_equal(found, make_data())
    assert names(store) == [".other.zarr.0.partial", "s.zarr"]


@pytest.mark.usefixtures("quick")
def test_lock__that_does_not_beat_is_taken_over_and_one_that_beats_is_not(place: Place) -> None:
    leave_lock(place, seen=time.time() - 60)
    with claimed(place) as mine:
        assert not mine.inherited
        time.sleep(1.2 * QUICK_STALE)  # it beats
        with pytest.raises(StoreError, match="is being written by"), claimed(place):
            pytest.fail("both hold it")
    # A holder whose clock is off, and who beats, is left alone.
    stop = time.monotonic() + 20

    def beating(original: Any = claim.Claim._read) -> Any:
        def read(self: Any) -> Any:
            if time.monotonic() < stop:
                leave_lock(place, seen=time.time() - 3600)
            return original(self)

        return read

    with pytest.MonkeyPatch.context() as patch:
        leave_lock(place)
        patch.setattr(claim.Claim, "_read", beating())
        with pytest.raises(StoreError, match="process 1 on far since long ago"), claimed(place):
            pytest.fail("both hold it")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"[1]", b"{}"])
@pytest.mark.usefixtures("quick")
def test_lock__that_cannot_be_read_is_taken_over(place: Place, content: bytes) -> None:
    found, inside = fsspec.core.url_to_fs(place.beside(".s.zarr.lock").url, **place.options)
    found.pipe_file(inside, content)
    with claimed(place):
        pass
    assert names(place) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_writer__that_was_taken_over_gives_up_and_touches_nothing(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    source = write_run(tmp_path / "run.nii.gz")
    if overwrite:
        convert(source, place.label, False, place.options)
    from chunkglm.io.encode import ChunkWriter

    original = ChunkWriter.write

    def write(self: Any, *args: Any) -> None:
        original(self, *args)
        leave_lock(place)

    monkeypatch.setattr(ChunkWriter, "write", write)
    with pytest.raises(StoreError) as caught:
        convert(source, place.label, overwrite, place.options)
    one_line(caught.value, place.url, "process 1 on far since long ago took over")
    left = names(place)
    assert ".s.zarr.lock" in left
    assert "s.zarr" in left
    if overwrite:
        assert cg.verify(place.label, storage_options=place.options) == []


def test_foreign_group__is_not_taken_for_a_killed_writer_s(place: Place, tmp_path: Path) -> None:
    # Its holder died before it had looked at what lies there.
    import zarr

    zarr.create_group(place.open(read_only=False), attributes={"thesis": "precious"})
    leave_lock(place, machine=claim._machine(), pid=2**22 + 1, begun=False)
    with pytest.raises(StoreError, match="holds a store that is not complete"):
        convert(write_run(tmp_path / "run.nii"), place.label, False, place.options)
    assert zarr.open_group(place.open(read_only=True), mode="r").attrs["thesis"] == "precious"


def test_missing_store__is_not_there_rather_than_incomplete(place: Place) -> None:
    for look in (cg.open_run, cg.open_fit, cg.verify):
        with pytest.raises(StoreError) as caught:
            look(place.label, storage_options=place.options)
        one_line(caught.value, place.url, "no such store", "check the address")


def test_host_that_is_down__is_told_in_seconds() -> None:
    pytest.importorskip("s3fs")
    options = {"key": "k", "secret": "s", "endpoint_url": "http://127.0.0.1:9"}
    for name in ("run.nii.gz", "run.zarr"):
        began = time.monotonic()
        with pytest.raises(cg.errors.ChunkglmError) as caught:
            cg.open_run(f"s3://bucket/{name}", storage_options=options)
        # One second at most for each of three requests; the rest is a busy machine.
        assert time.monotonic() - began < 8
        one_line(caught.value, f"s3://bucket/{name}", "cannot be reached", "127.0.0.1:9")


def test_host_that_is_down__own_patience_is_kept() -> None:
    from chunkglm.io.files import in_seconds

    own = {"config_kwargs": {"retries": {"max_attempts": 9}}, "key": "k"}
    found = in_seconds("s3://bucket/x", own)
    assert found["config_kwargs"]["retries"] == {"max_attempts": 9}
    assert found["key"] == "k"
    assert in_seconds("memory://x", own) == own
