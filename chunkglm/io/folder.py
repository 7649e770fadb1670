"""Stores in folders: written beside, brought to the disk, and renamed into place."""

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from chunkglm.errors import StoreError
from chunkglm.io.flush import Flusher, sync_folder
from chunkglm.io.lock import hidden, hidden_glob, only_writer
from chunkglm.io.manifest import RecordingStore
from chunkglm.io.place import Place
from chunkglm.io.recorded import recorded

ROOT = "zarr.json"

# The most that a run has been seen to shrink (5.7), and some: a disk without even this is refused.
BEST_COMPRESSION = 8

FULL = (errno.ENOSPC, errno.EDQUOT)

# Files of an old store removed at once: on a disk that is told of every block that falls free, each
# waits for it (84 files of 2 MB one after the other 83 ms, so 62).
_REMOVERS = 8

# Looks, 50 ms apart, that must find nothing before what was begun counts as removed.
_QUIET = 4


@contextlib.contextmanager
def folder_committed(
    place: Place, folder: Path, *, overwrite: bool, needed: int
) -> Iterator[RecordingStore]:
    """Write beside, and rename into place when all of it is on the disk; see `committed`."""
    check_destination(place, overwrite=overwrite)
    folder = Path(os.path.realpath(folder))
    with only_writer(folder):
        _clear_litter(folder)
        # Again: another writer may have been here since, and its old store may be back.
        check_destination(place, overwrite=overwrite)
        _check_room(place.label, folder.parent, needed)
        beside = hidden(folder, f"{secrets.token_hex(4)}.partial")
        try:
            target = Place(str(beside), folder=beside).open(read_only=False)
            with Flusher(beside) as flusher:
                with recorded(target, flusher.written, flusher.linked) as store:
                    yield store
                flusher.finish()
            _put_in_place(beside, folder)
        except OSError as error:
            # What the block raises of its own, such as a source that cannot be read, passes.
            if error.errno is None or not _is_below(error.filename, beside):
                raise
            # What is free is told without what was begun: that is what the next run will find.
            _abandon(beside)
            raise StoreError(_failure(place.label, folder.parent, needed, error)) from error
        finally:
            if beside.exists():
                _abandon(beside)


def _abandon(beside: Path) -> None:
    """Remove what was begun, and what threads that are still at it add meanwhile."""
    quiet = 0
    for _ in range(100):
        shutil.rmtree(beside, ignore_errors=True)
        quiet = 0 if beside.exists() else quiet + 1
        if quiet == _QUIET:
            return
        time.sleep(0.05)


def _is_below(name: object, folder: Path) -> bool:
    return name is None or str(name).startswith(str(folder))


def _failure(label: str, parent: Path, needed: int, error: OSError) -> str:
    if error.errno in FULL:
        free = shutil.disk_usage(parent).free
        return (
            f"{label}: the disk is full; the store needs up to {needed} bytes and {free} are free; "
            "free some and run again"
        )
    return f"{label}: cannot be written ({error.strerror or error}); what was there is unchanged"


def _check_room(label: str, parent: Path, needed: int) -> None:
    """Refuse a disk on which not even the best compression would fit."""
    least, free = needed // BEST_COMPRESSION, shutil.disk_usage(parent).free
    if free < least:
        msg = (
            f"{label}: there is no room; the store needs {least} to {needed} bytes and {free} are "
            "free; free some, or choose another disk"
        )
        raise StoreError(msg)


def _clear_litter(folder: Path) -> None:
    """Remove what killed writers left; an old store moved aside and not yet replaced comes back."""
    for old in sorted(hidden_glob(folder, "*.old")):
        if folder.exists():
            _discard(old, folder)
        else:
            old.rename(folder)
    for partial in hidden_glob(folder, "*.partial"):
        shutil.rmtree(partial)


def _put_in_place(beside: Path, folder: Path) -> None:
    """Rename into place; an old store stays whole until the new one is there."""
    if not folder.exists():
        beside.rename(folder)
        sync_folder(folder.parent)
        return
    old = hidden(folder, f"{secrets.token_hex(4)}.old")
    folder.rename(old)
    try:
        beside.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    sync_folder(folder.parent)
    _discard(old, folder)


def _discard(old: Path, folder: Path) -> None:
    """Remove an old store, under a name that no writer takes for a whole one to bring back."""
    doomed = hidden(folder, f"{secrets.token_hex(4)}.partial")
    old.rename(doomed)
    files = [Path(parent) / name for parent, _, names in os.walk(doomed) for name in names]
    with ThreadPoolExecutor(_REMOVERS, "chunkglm-remove") as threads:
        list(threads.map(Path.unlink, files))
    shutil.rmtree(doomed)


def check_destination(place: Place, *, overwrite: bool) -> None:
    """Refuse a destination that holds something else, or cannot be written."""
    if place.folder is None:
        return
    # What a link points to is replaced, not the link.
    label, folder = place.label, Path(os.path.realpath(place.folder))
    if not folder.parent.is_dir():
        msg = f"{label}: the folder {folder.parent} does not exist; make it first"
        raise StoreError(msg)
    if not os.access(folder.parent, os.W_OK):
        msg = f"{label}: the folder {folder.parent} cannot be written to; choose another"
        raise StoreError(msg)
    if not folder.exists() and not folder.is_symlink():
        return
    if not (folder / ROOT).exists():
        raise StoreError(no_store(label))
    if not overwrite:
        raise StoreError(exists(label))


def exists(label: str) -> str:
    """What is said of a store that is in the way."""
    return f"{label}: exists; pass overwrite=True (--overwrite) to replace it"


def no_store(label: str) -> str:
    """What is said of something else that is in the way."""
    return f"{label}: exists and is not a store; choose another name, it is left as it is"
