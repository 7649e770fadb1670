"""Opening stores: each key is checked when it is read, and what is not whole is refused."""

import builtins
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, WrapperStore

from chunkglm.errors import StoreError
from chunkglm.io.lock import hidden_glob
from chunkglm.io.manifest import (
    ALTERED,
    Manifest,
    entries_of,
    get,
    get_local,
    list_keys,
    read_manifest,
)
from chunkglm.io.place import Place

_ROOTS = ("zarr.json", ".zgroup")  # of zarr's versions 3 and 2
RUN, FIT = "run", "fit"  # what a store may hold
_GONE = "it is being replaced, or was removed; open it again, or make it again"
_OPENERS = {RUN: "open it with open_run", FIT: "open it with open_fit"}


class CheckedStore(WrapperStore[Store]):
    """Refuses keys that are missing or not what was written; nothing else is read as a result."""

    def __init__(self, store: Store, manifest: Manifest, label: str) -> None:
        super().__init__(store)
        self.manifest, self.label = manifest, label

    def _with_store(self, store: Store) -> "CheckedStore":
        return CheckedStore(store, self.manifest, self.label)

    @property
    def supports_listing(self) -> bool:
        """The manifest tells the keys, also of stores that cannot."""
        return True

    async def list(self) -> AsyncIterator[str]:
        """All keys, from the manifest: what a file system remembers of a folder may be old."""
        for key in self.manifest.entries:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """All keys below."""
        for key in self.manifest.entries:
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names directly below."""
        start = f"{prefix.rstrip('/')}/".lstrip("/")
        below = (k.removeprefix(start) for k in self.manifest.entries if k.startswith(start))
        for name in dict.fromkeys(k.partition("/")[0] for k in below):
            yield name

    def lost(self) -> set[str]:
        """Keys that are not there any more, as far as the store can list its keys."""
        return set(self.manifest.entries) - _listed(self._store, self.manifest, self.label)

    def __dask_tokenize__(self) -> object:
        """Tell this writing of this store from any other, without reading it."""
        return self.label, self.manifest.to_bytes()

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a key whole and check it; zarr would take a lost chunk for zeros, in silence."""
        with self._telling(key):
            found = await self._store.get(key, prototype)
        problem = self.manifest.problem(key, None if found is None else found.as_numpy_array().data)
        if problem:
            raise StoreError(await self._refusal(f"{key} {problem}"))
        if found is None or byte_range is None:
            return found
        return _part(found, byte_range)

    def read(self, key: str) -> memoryview | None:
        """Read a key whole and check it, of a folder in this thread."""
        if type(self._store) is not LocalStore:
            found = sync(self.get(key, default_buffer_prototype()))
            return None if found is None else found.as_numpy_array().data
        with self._telling(key):
            data = get_local(self._store, key)
        problem = self.manifest.problem(key, data)
        if problem:
            raise StoreError(sync(self._refusal(f"{key} {problem}")))
        return None if data is None else memoryview(data)

    @contextlib.contextmanager
    def _telling(self, key: str) -> Iterator[None]:
        """Name the store and the key where one cannot be read."""
        try:
            yield
        except StoreError:
            raise  # a remote store's own words, which name it
        except Exception as error:
            cause = one_line(error)
            msg = f"{self.label}: {key} cannot be read ({cause}); check the disk and the access"
            raise StoreError(msg) from error

    async def _refusal(self, problem: str) -> str:
        """Tell a store that was replaced while it was open from one that was damaged."""
        raw = None
        with contextlib.suppress(OSError):
            raw = await self._store.get(self.manifest.key, default_buffer_prototype())
        if raw is None:
            return f"{self.label}: {problem}, and its manifest is gone; {_GONE}"
        with contextlib.suppress(*ALTERED):
            if entries_of(raw.to_bytes()) != self.manifest.entries:
                return f"{self.label}: was written anew since it was opened; open it again"
        return f"{self.label}: {problem}; make the store again"

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> builtins.list[Buffer | None]:
        """Read several keys, each whole and checked."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        for key, prototype, byte_range in requests:
            yield key, await self.get(key, prototype, byte_range)


def _part(found: Buffer, wanted: ByteRequest) -> Buffer:
    if isinstance(wanted, RangeByteRequest):
        return found[wanted.start : wanted.end]
    if isinstance(wanted, OffsetByteRequest):
        return found[wanted.offset :]
    return found[max(0, len(found) - wanted.suffix) :]


def open_checked(place: Place) -> zarr.Group:
    """Open a complete store; every key is checked against the manifest when it is read.

    Raises
    ------
    StoreError
        When it is not there, not complete, or its metadata are not what was written.
    """
    store = open_existing(place)
    checked = CheckedStore(store, _manifest_of(store, place), place.label)
    try:
        return zarr.open_group(checked, mode="r", zarr_format=3, use_consolidated=False)
    except StoreError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{place.label}: is not a store that can be read ({one_line(error)}); make it again"
        raise StoreError(msg) from error


def open_existing(place: Place) -> Store:
    """Open what should be a store, or say why there is none.

    Raises
    ------
    StoreError
        When nothing is there, or it cannot be reached.
    """
    folder = place.folder
    if folder is not None and not folder.is_dir():
        raise StoreError(f"{place.label}: {_why_not_there(folder)}")
    return place.open(read_only=True)


def _manifest_of(store: Store, place: Place) -> Manifest:
    try:
        return read_manifest(store, place.label)
    except StoreError as error:
        if place.folder is None and not any(get(store, root) for root in _ROOTS):
            msg = f"{place.label}: no such store; check the address, or make it (chunkglm convert)"
            raise StoreError(msg) from error
        if place.folder is None or place.folder.is_dir():
            raise
        # There a moment ago: its folder has gone while it was opened.
        raise StoreError(f"{place.label}: {_GONE}") from error
    except OSError as error:
        cause = error.strerror or one_line(error)
        msg = f"{place.label}: cannot be read ({cause}); check the disk and the access"
        raise StoreError(msg) from error


def _why_not_there(folder: Path) -> str:
    target = Path(os.path.realpath(folder))
    if target.exists():
        return "is a file, not a store; make one with chunkglm convert"
    if old := next(iter(hidden_glob(target, "*.old")), None):
        return (
            "is being replaced, or was when its writer was ended; run the same again, which brings "
            f"back the old store (whole, in {old.name}) and replaces it"
        )
    if next(iter(hidden_glob(target, "*.partial")), None):
        return "is not complete, its writer is at work or was ended; make it again"
    return "no such store; make one with chunkglm convert"


def check_kind(group: zarr.Group, label: str, holds: str, number: int) -> dict[str, Any]:
    """Return a store's attributes, once it is known for what it should be.

    Raises
    ------
    StoreError
        When it holds something else, is of another format, or lacks a key.
    """
    attrs: dict[str, Any] = dict(group.attrs)
    found = attrs.get("holds"), attrs.get("chunkglm_format")
    if found != (holds, number):
        way_out = _OPENERS.get(str(found[0]), "") if found[0] != holds else ""
        msg = (
            f"{label}: must hold a {holds} of format {number}, but holds {found[0]!r} of format "
            f"{found[1]!r}; {way_out or 'make it again'}"
        )
        raise StoreError(msg)
    _check_keys(group.store, label)
    return attrs


def _check_keys(store: Any, label: str) -> None:
    """Refuse a store that lacks a key; names alone are listed, nothing is read."""
    lost = sorted(store.lost())
    if lost:
        msg = (
            f"{label}: is incomplete, {len(lost)} of {len(store.manifest.entries)} keys (chunks "
            f"and metadata) are missing, the first is {lost[0]}; make the store again"
        )
        raise StoreError(msg)


@contextlib.contextmanager
def damage_told(label: str) -> Iterator[None]:
    """Tell what a store lacks in words of its own; its checksums held, so it was written so."""
    try:
        yield
    except StoreError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        cause = f"{type(error).__name__}: {one_line(error)}"
        msg = f"{label}: its arrays or attributes are damaged ({cause}); make the store again"
        raise StoreError(msg) from error


def one_line(error: Exception) -> str:
    """Say what an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def verify_store(place: Place) -> list[str]:
    """Read a store whole and compare it with its manifest.

    Returns
    -------
    list of str
        What is wrong, key by key; empty when the store is as it was written.

    Raises
    ------
    StoreError
        When there is no store.
    """
    store = open_existing(place)
    try:
        manifest = _manifest_of(store, place)
    except StoreError as error:
        if get(store, "zarr.json") is None:
            raise
        return [str(error).removeprefix(f"{place.label}: ")]
    return problems(store, manifest, place.label)


def _listed(store: Store, manifest: Manifest, label: str) -> set[str]:
    """Keys that are there; where a store cannot list them, those that should be."""
    if not store.supports_listing:
        return set(manifest.entries)
    try:
        return set(list_keys(store))
    except OSError as error:  # a folder that is renamed while it is gone through
        raise StoreError(f"{label}: {_GONE}") from error


def problems(store: Store, manifest: Manifest, label: str) -> list[str]:
    """Everything that is wrong with a store, key by key."""
    found = []
    for key in manifest.entries:
        try:
            problem = manifest.problem(key, get(store, key))
        except OSError as error:
            problem = f"cannot be read ({error.strerror or error})"
        if problem:
            found.append(f"{key} {problem}")
    foreign = sorted(_listed(store, manifest, label) - set(manifest.entries) - {manifest.key})
    return [*found, *(f"{key} does not belong to the store" for key in foreign)]
