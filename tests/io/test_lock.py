"""One writer at a time, whoever asks; readers see a whole store or a refusal."""

import errno
import json
import os
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_lazy import make_data, names_in, one_line, write_run
from helpers_store import convert, end, held, save_fit, start, values_of_run, wait_for

import chunkglm as cg
from chunkglm.errors import ChunkglmError, StoreError
from chunkglm.io import lock
from chunkglm.io.lock import only_writer

pytestmark = pytest.mark.skipif(lock.fcntl is None, reason="there are no file locks here")

# Far more than a refusal takes on a busy machine, far less than the other writer, which waits for a
# minute to be let go.
AT_ONCE = 20.0  # seconds

# How often a reader sees each of two stores before it has seen enough, and how long that may take:
# 4 s gave 97 reads on a machine so busy that the writer had not yet begun.
OFTEN = 10
PATIENCE = 120.0  # seconds


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return write_run(tmp_path / "run.nii.gz")


def refusal(error: BaseException, store: Path, pid: int) -> None:
    """Check that a message tells who holds the lock, where, and since when."""
    message = one_line(error, store, "is being written by", f"process {pid} on ", "wait for it")
    assert f" on {socket.gethostname()} since " in message
    since = re.search(r"since (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", message)
    assert since is not None
    began = time.mktime(time.strptime(since[1], "%Y-%m-%d %H:%M:%S"))
    assert 0 <= time.time() - began < 60


@pytest.mark.parametrize("work", [convert, save_fit])
@pytest.mark.parametrize("overwrite", [False, True])
def test_second_writer__is_refused_at_once_and_the_first_wins(
    tmp_path: Path, source: Path, work: Any, overwrite: bool
) -> None:
    store, other = tmp_path / "out" / "s.zarr", write_run(tmp_path / "o.nii", make_data(seed=1))
    if overwrite:
        convert(other, store, False)
    first = start(held, tmp_path, work, source, store, overwrite)
    wait_for(tmp_path / "started")
    for again in (work, convert):
        began = time.monotonic()
        with pytest.raises(StoreError) as caught:
            again(other, store, overwrite)
        assert time.monotonic() - began < AT_ONCE
        refusal(caught.value, store, first.pid)
    # Meanwhile the old one is there, whole.
    if overwrite:
        assert cg.verify(store) == []
        assert np.array_equal(cg.open_run(store).to_numpy(), make_data(seed=1))
    else:
        with pytest.raises(StoreError, match="its writer is at work or was ended"):
            cg.open_run(store)
    (tmp_path / "go").touch()
    assert end(first) == 0
    assert names_in(tmp_path / "out") == ["s.zarr"]
    assert cg.verify(store) == []
    if work is convert:
        assert np.array_equal(cg.open_run(store).to_numpy(), make_data())


def test_lock__of_a_killed_writer_is_taken_over(tmp_path: Path, source: Path) -> None:
    store = tmp_path / "out" / "s.zarr"
    first = start(held, tmp_path, convert, source, store, False)
    wait_for(tmp_path / "started")
    first.kill()
    assert end(first) < 0
    assert ".s.zarr.lock" in names_in(tmp_path / "out")
    note = json.loads((tmp_path / "out" / ".s.zarr.lock").read_text())
    assert note["pid"] == first.pid
    convert(source, store, False)
    assert names_in(tmp_path / "out") == ["s.zarr"]
    assert np.array_equal(cg.open_run(store).to_numpy(), make_data())


def test_threads__of_one_process_are_two_writers(tmp_path: Path, source: Path) -> None:
    store, errors = tmp_path / "out" / "s.zarr", []
    together = threading.Barrier(4, timeout=30)

    def work() -> None:
        together.wait()
        try:
            convert(source, store, True)
        except StoreError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    # One at a time: those that came while another wrote were refused, and told by whom.
    assert len(errors) < 4
    for error in errors:
        refusal(error, store, os.getpid())
    with only_writer(store), pytest.raises(StoreError) as caught:
        convert(source, store, True)
    refusal(caught.value, store, os.getpid())
    assert names_in(tmp_path / "out") == ["s.zarr"]
    assert np.array_equal(cg.open_run(store).to_numpy(), make_data())


def test_processes__that_all_write_at_once_leave_one_whole_store(
    tmp_path: Path, source: Path
) -> None:
    store = tmp_path / "out" / "s.zarr"
    writers = [start(quietly, source, store) for _ in range(6)]
    assert {end(w) for w in writers} <= {0, 7}
    assert names_in(tmp_path / "out") == ["s.zarr"]
    assert cg.verify(store) == []
    assert np.array_equal(cg.open_run(store).to_numpy(), make_data())


def quietly(source: Path, store: Path) -> None:
    try:
        convert(source, store, True)
    except StoreError:
        raise SystemExit(7) from None


def overwriting(sources: list[Path], store: Path, stop: Path) -> None:
    while not stop.exists():
        for source in sources:
            convert(source, store, True)


def test_readers__during_overwriting_see_a_whole_store_or_a_refusal(tmp_path: Path) -> None:
    sources = [write_run(tmp_path / f"{s}.nii", make_data(seed=s)) for s in (0, 1)]
    whole = [make_data(seed=s).tobytes() for s in (0, 1)]
    store, seen, refused = tmp_path / "s.zarr", {0: 0, 1: 0}, set()
    convert(sources[0], store, False)
    writer = start(overwriting, sources, store, tmp_path / "stop")
    until = time.monotonic() + PATIENCE
    while min(seen.values()) < OFTEN and time.monotonic() < until:
        try:
            seen[whole.index(values_of_run(store))] += 1
        except ChunkglmError as error:
            refused.add(one_line(error, store).removeprefix(str(store)))
    (tmp_path / "stop").touch()
    assert end(writer) == 0
    assert min(seen.values()) >= OFTEN
    # Told for what it is, a store in the making, and not for one that is damaged.
    assert not [message for message in refused if "checksum" in message]


def test_stores__of_other_names_are_written_at_the_same_time(tmp_path: Path, source: Path) -> None:
    with only_writer(tmp_path / "out" / "a.zarr"), only_writer(tmp_path / "out" / "a.zarr2"):
        convert(source, tmp_path / "out" / "b.zarr", False)
    assert names_in(tmp_path / "out") == ["b.zarr"]


def test_link_and_target__are_one_store(tmp_path: Path, source: Path) -> None:
    store = tmp_path / "out" / "s.zarr"
    convert(source, store, False)
    (tmp_path / "link.zarr").symlink_to(store)
    with only_writer(store), pytest.raises(StoreError, match="is being written by process"):
        convert(source, tmp_path / "link.zarr", True)


# --- where locking is not what it should be ---------------------------------------------------


def test_holder__that_has_not_named_itself_yet_is_waited_for(tmp_path: Path, source: Path) -> None:
    store = tmp_path / "out" / "s.zarr"
    with only_writer(store):
        path = tmp_path / "out" / ".s.zarr.lock"
        note = path.read_text()
        path.write_text("")
        timer = threading.Timer(0.1, path.write_text, [note])
        timer.start()
        with pytest.raises(StoreError) as caught:
            convert(source, store, False)
        timer.join()
        refusal(caught.value, store, os.getpid())


def test_lock_file__with_rubbish_in_it_is_taken_over(tmp_path: Path, source: Path) -> None:
    (tmp_path / "out" / ".s.zarr.lock").write_text("not JSON " * 100)
    convert(source, tmp_path / "out" / "s.zarr", False)
    assert names_in(tmp_path / "out") == ["s.zarr"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_file_system_without_locks__goes_by_the_presence_of_a_file(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    store = tmp_path / "out" / "s.zarr"
    with only_writer(store), pytest.raises(StoreError) as caught:
        convert(source, store, False)
    refusal(caught.value, store, os.getpid())
    one_line(caught.value, "if it is gone, remove", tmp_path / "out" / ".s.zarr.held")
    assert names_in(tmp_path / "out") == []
    convert(source, store, False)
    assert names_in(tmp_path / "out") == ["s.zarr"]


def test_lock__that_cannot_be_made_or_taken_is_told_in_one_line(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, original = tmp_path / "out" / "s.zarr", os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith(".lock"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreError) as caught:
        convert(source, store, False)
    one_line(caught.value, store, "cannot be written (Permission denied)")
    # Another user's, who left his name.
    note = {"pid": 5, "host": "elsewhere", "since": "2026-01-01 00:00:00"}
    (tmp_path / "out" / ".s.zarr.lock").write_text(json.dumps(note))
    with pytest.raises(StoreError) as caught:
        convert(source, store, False)
    one_line(caught.value, store, "process 5 on elsewhere since 2026-01-01", "remove")
