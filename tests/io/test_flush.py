"""What is on the disk before a store is put in its place, and what comes of a disk that fails."""

import errno
import os
from pathlib import Path

import pytest
from helpers_lazy import make_design, names_in, one_line, write_run

import chunkglm as cg
from chunkglm.errors import StoreError
from chunkglm.io.flush import Flusher

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="files are known by /proc"
)


def file_of(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


@pytest.mark.parametrize("several", [False, True])
def test_maps__are_on_the_disk_before_they_are_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, several: bool
) -> None:
    flushed: set[int] = set()
    placed: list[str] = []
    original, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        original(descriptor)
        flushed.add(file_of(descriptor).stat().st_ino)

    def replaced(self: Path, target: Path) -> Path:
        if Path(target).parent == tmp_path / "maps":
            assert self.stat().st_ino in flushed, target
            placed.append(Path(target).name)
        return replace(self, target)

    fitted = cg.fit(write_run(tmp_path / "run.nii.gz"), make_design())
    maps = cg.contrast(fitted, {"a": "a", "b": "a - b"} if several else "a")
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    cg.save(maps, tmp_path / "maps", prefix="p")
    cg.save(cg.threshold(cg.contrast(fitted, "a"), alpha=0.5), tmp_path / "maps", prefix="q")
    assert len(placed) == (2 if several else 1) * 10 + 6
    assert names_in(tmp_path / "maps") == sorted(placed)


@pytest.mark.parametrize("way", ["convert", "save"])
def test_store__is_on_the_disk_as_it_will_be_before_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    flushed: dict[Path, tuple[int, int]] = {}
    inside: set[Path] = set()
    original, rename = os.fsync, Path.rename

    def state(path: Path) -> tuple[int, int]:
        found = path.stat()
        return found.st_ino, found.st_mtime_ns

    def synced(descriptor: int) -> None:
        path = file_of(descriptor)
        original(descriptor)
        if path.is_file():
            flushed[path] = state(path)
        else:
            flushed[path] = (0, 0)

    def renamed(self: Path, target: Path) -> Path:
        if target.name == "s.zarr":
            inside.update(self.rglob("*"), [self])
            for path in inside:
                assert flushed[path] == (state(path) if path.is_file() else (0, 0)), path
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    run = write_run(tmp_path / "run.nii.gz")
    if way == "convert":
        cg.convert(run, tmp_path / "s.zarr", progress=False)
    else:
        cg.fit(run, make_design()).save(tmp_path / "s.zarr")
    assert sum(path.name == "zarr.json" for path in inside) > 2
    assert flushed[tmp_path] == (0, 0)


def test_flusher__takes_files_that_others_wrote_and_forgets_those_that_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(os, "fsync", lambda d: seen.append(file_of(d)))
    (tmp_path / "a").mkdir()
    for name in ("a/own", "a/other"):
        (tmp_path / name).write_text(name)
    with Flusher(tmp_path) as flusher:
        flusher.written("a/own")
        flusher.written("a/gone")
        flusher.finish()
    files = sorted(tmp_path / name for name in ("a/own", "a/other"))
    assert sorted(p for p in seen if p.is_file()) == files
    assert [p for p in seen if p.is_dir()] == [tmp_path, tmp_path / "a"]


@pytest.mark.parametrize(
    ("number", "told"), [(errno.ENOSPC, "the disk is full"), (errno.EIO, "Input/output error")]
)
def test_disk_that_fails_while_flushing__is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, told: str
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    run = write_run(tmp_path / "run.nii.gz")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError) as caught:
        cg.convert(run, tmp_path / "s.zarr", progress=False)
    one_line(caught.value, tmp_path / "s.zarr", told)
    assert names_in(tmp_path) == ["run.nii.gz"]
