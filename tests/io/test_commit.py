"""Killed at every rename and at any time, or out of disk: a store is complete or refused."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from helpers_lazy import make_data, make_design, names_in, one_line, write_run
from helpers_store import (
    convert,
    end,
    ended_at_rename,
    noise,
    save_fit,
    start,
    values_of_fit,
    values_of_run,
)

import chunkglm as cg
from chunkglm.errors import ImageError, StoreError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are killed by POSIX signals")

KILLED = -signal.SIGKILL
WAYS: dict[str, tuple[Any, Any]] = {
    "convert": (convert, values_of_run),
    "save": (save_fit, values_of_fit),
}


class Case:
    """One way to write a store, what it writes, and what was there before."""

    def __init__(self, folder: Path, way: str, overwrite: bool) -> None:
        self.folder, self.overwrite = folder, overwrite
        self.write, self.values = WAYS[way]
        self.source = write_run(folder / "new.nii.gz", make_data(seed=1))
        old = write_run(folder / "old.nii.gz")
        self.write(old, folder / "old.zarr", False)
        self.write(self.source, folder / "new.zarr", False)
        self.old, self.new = (self.values(folder / f"{n}.zarr") for n in ("old", "new"))
        assert self.old != self.new

    def prepare(self, name: str) -> Path:
        """Make a folder in which the store is to be written."""
        target = self.folder / name
        target.mkdir()
        if self.overwrite:
            shutil.copytree(self.folder / "old.zarr", target / "s.zarr")
        return target / "s.zarr"

    def check(self, store: Path) -> str:
        """What a killed writer left: the old or the new store whole, or a refusal."""
        try:
            found = self.values(store)
        except StoreError as error:
            one_line(error, store)
            with pytest.raises(StoreError):
                cg.verify(store)
            return str(error)
        assert cg.verify(store) == []
        assert found in ((self.old, self.new) if self.overwrite else (self.new,))
        return "old" if found == self.old else "new"

    def repeat(self, store: Path, state: str) -> None:
        """Do the same again; a store that is whole is not written twice unless that is asked."""
        self.write(self.source, store, self.overwrite or state == "new")
        assert names_in(store.parent) == ["s.zarr"]
        assert self.values(store) == self.new
        assert cg.verify(store) == []


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(("way", "stride"), [("convert", 1), ("save", 40)])
def test_writer__killed_at_a_rename_leaves_a_whole_store_or_none(
    tmp_path: Path, way: str, stride: int, overwrite: bool
) -> None:
    case, states, number = Case(tmp_path, way, overwrite), [], 0
    total = count_renames(case)
    # All renames within the unfinished store are alike: of the many of a fit a part is taken.
    for number in sorted({*range(0, total, stride), *range(max(0, total - 4), total)}):
        for after in (False, True):
            store = case.prepare(f"{number}-{after}")
            process = start(ended_at_rename, number, after, case.write, case.source, store,
                            overwrite)  # fmt: skip
            assert end(process) == KILLED
            states.append(case.check(store))
            case.repeat(store, states[-1])
    assert total > 5
    assert states[-1] == "new"
    refused = [s for s in states if s not in ("old", "new")]
    if overwrite:
        # Only between the two renames is there nothing under the name, and that is said.
        assert states[0] == "old"
        assert len(refused) == 2
        for message in refused:
            assert "run the same again, which brings back the old store" in message
    else:
        assert len(refused) == len(states) - 1
        assert "not complete" in refused[0]


def count_renames(case: Case) -> int:
    """How many renames one undisturbed writing takes."""
    store, log = case.prepare("count"), case.folder / "log"
    assert end(start(logging_renames, log, case.write, case.source, store, case.overwrite)) == 0
    return len(log.read_text())


def logging_renames(log: Path, work: Callable[..., None], *args: Any) -> None:
    def logged(rename: Callable[..., None]) -> Callable[..., None]:
        def renamed(*names: Any, **kwargs: Any) -> None:
            rename(*names, **kwargs)
            with log.open("a") as file:
                file.write(".")

        return renamed

    os.rename, os.replace = logged(os.rename), logged(os.replace)  # type: ignore[assignment]
    work(*args)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("way", list(WAYS))
def test_writer__killed_at_any_time_leaves_a_whole_store_or_none(
    tmp_path: Path, way: str, overwrite: bool
) -> None:
    case, rng = Case(tmp_path, way, overwrite), np.random.default_rng(7)
    began = time.monotonic()
    assert end(start(case.write, case.source, case.prepare("whole"), overwrite)) == 0
    duration = time.monotonic() - began
    for number in range(4):
        store = case.prepare(str(number))
        process = start(case.write, case.source, store, overwrite)
        time.sleep(float(rng.uniform(0.1, 1)) * duration)
        process.kill()
        assert end(process) in (KILLED, 0)
        case.repeat(store, case.check(store))


def test_replaced_store__that_a_link_points_to_comes_back(tmp_path: Path) -> None:
    case = Case(tmp_path, "convert", overwrite=True)
    store = case.prepare("linked")
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "s.zarr"
    link.symlink_to(store)
    store.rename(store.with_name(".s.zarr.0123abcd.old"))
    with pytest.raises(StoreError) as caught:
        cg.open_run(link)
    one_line(caught.value, link, "whole, in .s.zarr.0123abcd.old")
    # Without leave to replace it, it comes back all the same.
    with pytest.raises(StoreError, match="overwrite=True"):
        convert(case.source, link, overwrite=False)
    assert values_of_run(link) == case.old
    convert(case.source, link, overwrite=True)
    assert values_of_run(link) == case.new
    assert names_in(store.parent) == ["s.zarr"]
    assert names_in(link.parent) == ["s.zarr"]
    assert link.is_symlink()


def test_litter__of_other_stores_is_left_alone(tmp_path: Path) -> None:
    source = write_run(tmp_path / "run.nii")
    for name in (".b.zarr.0.partial", ".ab.zarr.0.partial", ".aXzarr.0.old", ".a.zarr2.0.partial"):
        (tmp_path / name).mkdir()
    before = names_in(tmp_path)
    for name in ("a.zarr", "[ab]*.zarr", "?.zarr", "." + 240 * "n" + ".zarr", 124 * "ü" + ".zarr"):
        convert(source, tmp_path / name, overwrite=False)
        convert(source, tmp_path / name, overwrite=True)
        assert cg.verify(tmp_path / name) == []
        shutil.rmtree(tmp_path / name)
    assert names_in(tmp_path) == before


# --- no room ----------------------------------------------------------------------------------

NOISE = noise((20, 20, 10, 60))  # 480 kB
DISK = 700_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, most of which something else takes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = f"size={DISK + 900_000}"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"small disks cannot be mounted here ({done.stderr.strip()})")
    (folder / "filler").write_bytes(bytes(900_000 + DISK - 300_000))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def amounts(error: BaseException, path: Path, needed: int, reason: str) -> None:
    """Check that a message tells what is needed and what is free."""
    message = one_line(error, path, reason, f"{needed} bytes and ", "are free")
    free = int(message.partition(" are free")[0].rpartition(" ")[2])
    assert abs(free - 300_000) < 40_000  # of small files each takes a page


@pytest.mark.parametrize("kind", ["fresh", "overwrite", "save"])
def test_full_disk__is_told_and_left_clean_and_the_same_again_succeeds(
    tmp_path: Path, disk: Path, kind: str
) -> None:
    run = write_run(tmp_path / "run.nii", NOISE)
    store, overwrite = disk / "s.zarr", kind == "overwrite"
    fitted = cg.fit(run, make_design(60), noise="ar1")
    needed = NOISE.nbytes
    if overwrite:
        small = write_run(tmp_path / "small.nii", noise((4, 4, 4, 10)))
        convert(small, store, overwrite=False)
        before = values_of_run(store)

    def write() -> None:
        if kind == "save":
            fitted.save(store)
        else:
            convert(run, store, overwrite)

    with pytest.raises(StoreError) as caught:
        write()
    if kind == "save":
        assert "the disk is full; the store needs up to" in one_line(caught.value, store)
    else:
        amounts(caught.value, store, needed, "the disk is full")
    assert names_in(disk) == ["filler", *(["s.zarr"] if overwrite else [])]
    if overwrite:
        assert values_of_run(store) == before
    (disk / "filler").unlink()
    write()
    assert cg.verify(store) == []
    assert names_in(disk) == ["s.zarr"]


def test_room__that_even_the_best_compression_needs_is_asked_for_first(
    tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = np.zeros((50, 50, 20, 30), np.int16)  # 3 MB, of which an eighth is 375 kB
    run = write_run(tmp_path / "run.nii", data)
    monkeypatch.setattr(zarr, "create_group", lambda *a, **k: pytest.fail("it has started"))
    with pytest.raises(StoreError) as caught:
        convert(run, disk / "s.zarr", overwrite=False)
    amounts(caught.value, disk / "s.zarr", data.nbytes, f"needs {data.nbytes // 8} to")
    assert names_in(disk) == ["filler"]


def test_room__that_killed_writers_took_is_free(tmp_path: Path, disk: Path) -> None:
    run = write_run(tmp_path / "run.nii", noise((10, 10, 10, 20)))
    (disk / ".s.zarr.0123abcd.partial").mkdir()
    (disk / "filler").rename(disk / ".s.zarr.0123abcd.partial" / "chunk")
    free = shutil.disk_usage(disk).free
    (disk / "more").write_bytes(bytes(free - 4096))
    convert(run, disk / "s.zarr", overwrite=False)
    assert names_in(disk) == ["more", "s.zarr"]


@pytest.mark.parametrize(("name", "reason"), [("x.nii", "no room"), ("x.nii.gz", "disk is full")])
def test_export__to_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, disk: Path, name: str, reason: str
) -> None:
    run = write_run(tmp_path / "run.nii", NOISE)
    convert(run, tmp_path / "s.zarr", overwrite=False)
    with pytest.raises(ImageError) as caught:
        cg.export_nifti(tmp_path / "s.zarr", disk / name)
    amounts(caught.value, disk / name, 352 + NOISE.nbytes, reason)
    assert names_in(disk) == ["filler"]
    (disk / "filler").unlink()
    cg.export_nifti(tmp_path / "s.zarr", disk / name)
    assert np.array_equal(cg.open_run(disk / name).to_numpy(), NOISE)


# --- store objects and URLs -------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[str]:
    """A URL in memory."""
    import fsspec

    file_system = fsspec.filesystem("memory")
    file_system.pipe("/chunkglm-tests/other", b"")
    yield "memory://chunkglm-tests/s.zarr"
    left = [name for name in file_system.find("/chunkglm-tests") if "s.zarr/" not in name]
    file_system.rm("/chunkglm-tests", recursive=True)
    assert left == ["/chunkglm-tests/other"]


@pytest.mark.parametrize("kind", ["object", "url"])
def test_store__in_memory_is_converted_opened_fitted_verified_and_replaced(
    tmp_path: Path, memory: str, kind: str
) -> None:
    store: Any = memory if kind == "url" else zarr.storage.MemoryStore()
    one, two = (write_run(tmp_path / f"{s}.nii", make_data(seed=s)) for s in (0, 1))
    label = cg.convert(one, store, progress=False)
    assert label == str(store)
    run = cg.open_run(store)
    assert np.array_equal(run.to_numpy(), make_data())
    maps = cg.contrast(cg.fit(run, make_design()), "a").compute()
    expected = cg.contrast(cg.fit(one, make_design()), "a").compute()
    np.testing.assert_allclose(maps["stat"], expected["stat"], rtol=1e-10)
    assert cg.verify(store) == []
    with pytest.raises(StoreError) as caught:
        cg.convert(two, store, progress=False)
    one_line(caught.value, label, "overwrite=True")
    cg.convert(two, store, overwrite=True, progress=False)
    assert cg.verify(store) == []
    assert np.array_equal(cg.open_run(store).to_numpy(), make_data(seed=1))
    with pytest.raises(StoreError, match="written anew"):
        run.to_numpy()
    fitted = cg.fit(one, make_design())
    with pytest.raises(StoreError, match="overwrite=True"):
        fitted.save(store)
    fitted.save(store, overwrite=True)
    found = cg.contrast(cg.open_fit(store), "a").compute()
    np.testing.assert_allclose(found["stat"], expected["stat"], rtol=1e-10)


@pytest.mark.parametrize("kind", ["object", "url"])
def test_store__in_memory_is_not_there_when_its_writer_failed(
    tmp_path: Path, memory: str, kind: str
) -> None:
    store: Any = memory if kind == "url" else zarr.storage.MemoryStore()
    run = write_run(tmp_path / "run.nii.gz")
    content = run.read_bytes()
    run.write_bytes(content[:-8] + b"wrong" + content[-3:])
    with pytest.raises(ImageError):
        cg.convert(run, store, progress=False)
    with pytest.raises(StoreError) as caught:
        cg.open_run(store)
    one_line(caught.value, store, "no such store")
    run.write_bytes(content)
    cg.convert(run, store, progress=False)
    assert cg.verify(store) == []


@pytest.mark.parametrize("kind", ["object", "url"])
def test_store__in_memory_does_not_take_the_place_of_other_things(
    tmp_path: Path, memory: str, kind: str
) -> None:
    import fsspec

    store: Any = memory if kind == "url" else zarr.storage.MemoryStore()
    if kind == "url":
        fsspec.filesystem("memory").pipe("/chunkglm-tests/s.zarr/thesis.txt", b"precious")
    else:
        store._store_dict["thesis.txt"] = zarr.core.buffer.cpu.Buffer.from_bytes(b"precious")
    run = write_run(tmp_path / "run.nii")
    for overwrite in (False, True):
        with pytest.raises(StoreError) as caught:
            cg.convert(run, store, overwrite=overwrite, progress=False)
        one_line(caught.value, store, "is not a store", "left as it is")


def test_local_store_object__is_the_folder_it_names(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.nii")
    store = zarr.storage.LocalStore(tmp_path / "s.zarr")
    assert cg.convert(run, store, progress=False) == str(tmp_path / "s.zarr")
    assert cg.verify(tmp_path / "s.zarr") == []
    assert np.array_equal(cg.open_run(store).to_numpy(), make_data())
    assert names_in(tmp_path) == ["run.nii", "s.zarr"]
