"""A store is written beside its place and put there when it is whole: complete, or not there."""

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import zarr
from zarr.abc.store import Store
from zarr.core.sync import sync

from chunkglm.errors import StoreError
from chunkglm.io.lock import hidden, hidden_glob, only_writer
from chunkglm.io.manifest import KEYS, Manifest, RecordingStore, get, list_keys, put
from chunkglm.io.place import Place

ROOT = "zarr.json"

# The most that a run has been seen to shrink (5.7), and some: a disk without even this is refused.
BEST_COMPRESSION = 8

FULL = (errno.ENOSPC, errno.EDQUOT)


# Looks, 50 ms apart, that must find nothing before what was begun counts as removed.
_QUIET = 4


@contextlib.contextmanager
def committed(place: Place, *, overwrite: bool, needed: int) -> Iterator[Store]:
    """Write a store; it is there, whole, after the block and only then.

    Parameters
    ----------
    place : Place
    overwrite : bool
        Replace what is there. A folder's old content stays whole until the new one is; behind a
        URL the old content is removed once the new one lies whole beside it; a store object has no
        beside, its old content goes first.
    needed : int
        Bytes the store will take at most.

    Yields
    ------
    Store
        To write to.

    Raises
    ------
    StoreError
        When something is in the way, another process is writing, or there is no room.
    """
    if place.folder is not None:
        with _folder(place, place.folder, overwrite=overwrite, needed=needed) as store:
            yield store
    else:
        target = place.open(read_only=False)
        there = _check_keys_there(target, place, overwrite=overwrite)
        beside = _beside if there and place.url is not None else _directly
        with beside(place, target) as store:
            yield store


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
        raise StoreError(_no_store(label))
    if not overwrite:
        raise StoreError(_exists(label))


def _check_keys_there(target: Store, place: Place, *, overwrite: bool) -> bool:
    """Whether there is a store to replace; anything else in the way is refused."""
    there = set(list_keys(target))
    if not there:
        return False
    if ROOT not in there:
        raise StoreError(_no_store(place.label))
    if overwrite:
        return True
    if there & set(KEYS):
        raise StoreError(_exists(place.label))
    msg = (
        f"{place.label}: holds a store that is not complete; unless another process is writing it, "
        "pass overwrite=True (--overwrite) to replace it"
    )
    raise StoreError(msg)


def _exists(label: str) -> str:
    return f"{label}: exists; pass overwrite=True (--overwrite) to replace it"


def _no_store(label: str) -> str:
    return f"{label}: exists and is not a store; choose another name, it is left as it is"


@contextlib.contextmanager
def _recorded(target: Store) -> Iterator[Store]:
    """Note what is written, and write the manifest last."""
    store = RecordingStore(target)
    yield store
    there = set(list_keys(target))
    # Other processes that wrote blocks noted them on their side: what they wrote is read back.
    for key in there - set(store.entries):
        data = get(target, key)
        if data is not None:
            store.note(key, data)
    _check_complete(target, set(store.entries) - there, there)
    key = next(key for key in KEYS if f"{key.partition('/')[0]}/zarr.json" in store.entries)
    put(target, key, Manifest(store.entries, key).to_bytes())


def _check_complete(target: Store, lost: set[str], there: set[str]) -> None:
    """Refuse to finish a store of which a part is not there, though nothing failed."""
    group = zarr.open_group(target, mode="r", zarr_format=3, use_consolidated=False)
    for name, array in group.arrays():
        found = sum(key == f"{name}/c" or key.startswith(f"{name}/c/") for key in there)
        if found != array.nchunks:
            lost.add(f"{array.nchunks - found} of {array.nchunks} chunks of {name}")
    if lost:
        msg = (
            f"{target}: {', '.join(sorted(lost))} did not arrive; every process that computes must "
            "be able to write there: choose a place that all of them share"
        )
        raise StoreError(msg)


# --- folders ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _folder(place: Place, folder: Path, *, overwrite: bool, needed: int) -> Iterator[Store]:
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
            with _recorded(target) as store:
                yield store
            _flush(beside)
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
        _sync_folder(folder.parent)
        return
    old = hidden(folder, f"{secrets.token_hex(4)}.old")
    folder.rename(old)
    try:
        beside.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    _sync_folder(folder.parent)
    _discard(old, folder)


def _discard(old: Path, folder: Path) -> None:
    """Remove an old store, under a name that no writer takes for a whole one to bring back."""
    doomed = hidden(folder, f"{secrets.token_hex(4)}.partial")
    old.rename(doomed)
    shutil.rmtree(doomed)


def _flush(folder: Path) -> None:
    """Bring everything below a folder to the disk, so that a power cut leaves no empty files."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync_file(Path(parent, name), os.O_RDWR)
        _sync_folder(Path(parent))


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere folders cannot be opened, and renames need no help
        _sync_file(folder, os.O_RDONLY)


def _sync_file(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- URLs and store objects -------------------------------------------------------------------


@contextlib.contextmanager
def _directly(place: Place, target: Store) -> Iterator[Store]:
    """Write where the store will be; until its manifest is there it is refused as incomplete."""
    _clear(place, target)
    try:
        with _recorded(target) as store:
            yield store
    except BaseException:
        _clear(place, target)
        raise


def _clear(place: Place, target: Store) -> None:
    # The manifest first: without it the rest is refused as incomplete, with it a new one opens.
    for key in KEYS:
        sync(target.delete(key))
    if place.url is not None:
        # Many keys at once, where the file system can; zarr's own clear() leaves some behind.
        place.remove()
    for key in list_keys(target):
        sync(target.delete(key))


@contextlib.contextmanager
def _beside(place: Place, target: Store) -> Iterator[Store]:
    """Write beside, and copy when it is whole: there is no renaming behind a URL."""
    apart = place.beside(f".{place.name}.{secrets.token_hex(4)}.partial")
    source = apart.open(read_only=False)
    try:
        with _recorded(source) as store:
            yield store
        _clear(place, target)
        # The root first, so that a copy cut short is known for a store, and may be replaced.
        for key in sorted(list_keys(source), key=lambda k: (k in KEYS, k != ROOT)):
            data = get(source, key)
            assert data is not None  # noqa: S101 - it was listed
            put(target, key, data)
    finally:
        apart.remove()
