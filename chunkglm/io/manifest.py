"""What a complete store holds: the size and checksum of every key, itself checked."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zarr.abc.store import Store
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, WrapperStore

from chunkglm.errors import StoreError
from chunkglm.io.inflate import crc32

# Inside an array's folder, the one place where zarr does not take it for a broken member and warn.
NAME = "chunkglm-manifest.json"
# The array that has it: of a run's store, of a fit's, of a study's.
HOSTS = ("bold", "moments", "effect_size")
KEYS = tuple(f"{host}/{NAME}" for host in HOSTS)
FORMAT = 1

# What reading a manifest that was altered may raise.
ALTERED = (ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Size and CRC-32 of every key of a store."""

    entries: Mapping[str, tuple[int, int]]
    key: str  # its own

    def to_bytes(self) -> bytes:
        """As it lies in the store; its last field is the checksum of the rest."""
        body = json.dumps({"format": FORMAT, "keys": dict(sorted(self.entries.items()))})
        return json.dumps({"manifest": json.loads(body), "crc32": crc32(body.encode())}).encode()

    def problem(self, key: str, data: bytes | memoryview | None) -> str | None:
        """What is wrong with the bytes found under a key, or None."""
        expected = self.entries.get(key)
        if expected is None:
            return None if data is None or key == self.key else "does not belong to the store"
        if data is None:
            return "is missing"
        if len(data) != expected[0]:
            return f"has {len(data)} bytes and should have {expected[0]}"
        if crc32(data) != expected[1]:
            return "is not what was written (its checksum differs)"
        return None


def read_manifest(store: Store, label: str) -> Manifest:
    """Read a store's manifest.

    Raises
    ------
    StoreError
        When there is none, so that the store is not complete, or it has been altered.
    """
    key, raw = next(((k, data) for k in KEYS if (data := get(store, k)) is not None), ("", None))
    if raw is None:
        msg = f"{label}: is incomplete or not made by chunkglm, it has no {NAME}; make it again"
        raise StoreError(msg)
    try:
        return Manifest(entries_of(raw), key)
    except ALTERED as error:
        cause = " ".join(str(error).split())
        msg = f"{label}: {key} has been altered or is of another version ({cause}); make it again"
        raise StoreError(msg) from error


def entries_of(raw: bytes) -> dict[str, tuple[int, int]]:
    """Read a manifest's bytes; one of `ALTERED` when they are not what was written."""
    found = json.loads(raw)
    body = json.dumps(found["manifest"])
    if crc32(body.encode()) != found["crc32"]:
        msg = "its checksum differs"
        raise ValueError(msg)
    if found["manifest"]["format"] != FORMAT:
        msg = f"its format is {found['manifest']['format']} and must be {FORMAT}"
        raise ValueError(msg)
    return {k: (int(n), int(c)) for k, (n, c) in found["manifest"]["keys"].items()}


def get(store: Store, key: str) -> bytes | None:
    """Bytes under a key; None where it, or the whole store, is not there."""
    if type(store) is LocalStore:
        return get_local(store, key)
    try:
        found = sync(store.get(key, default_buffer_prototype()))
    except FileNotFoundError:
        return None
    return None if found is None else found.to_bytes()


def get_local(store: LocalStore, key: str) -> bytes | None:
    """`get` of a folder, in this thread: zarr crosses to its own and back, 0.3 ms each time."""
    try:
        return (store.root / key).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def put(store: Store, key: str, data: bytes) -> None:
    """Write bytes under a key."""
    sync(store.set(key, default_buffer_prototype().buffer.from_bytes(data)))


class RecordingStore(WrapperStore[Store]):
    """Notes the size and checksum of everything written through it, in this process."""

    def __init__(
        self,
        store: Store,
        entries: dict[str, tuple[int, int]] | None = None,
        written: Callable[[str], None] | None = None,
        linked: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(store)
        self.entries = {} if entries is None else entries
        self._written = written
        self._linked = linked

    def __reduce__(self) -> tuple[Any, ...]:
        # In another process nobody waits to be told: what is written there is read back.
        return RecordingStore, (self._store, self.entries)

    def _with_store(self, store: Store) -> "RecordingStore":
        return RecordingStore(store, self.entries, self._written, self._linked)

    async def set(self, key: str, value: Buffer) -> None:
        """Write and note."""
        await super().set(key, value)
        self.note(key, value.as_numpy_array().data)

    def put(self, key: str, data: bytes) -> None:
        """Write and note, in this thread if it is to a folder: zarr crosses three to get there."""
        if type(self._store) is not LocalStore:
            put(self, key, data)
            return
        path = self._store.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.note(key, data)

    def take(self, key: str, source: Path, entry: tuple[int, int]) -> None:
        """Take a file in, flushed, of known size and checksum: a second name of it, or a copy.

        The folder that it goes to is there already.
        """
        if type(self._store) is not LocalStore:
            put(self, key, source.read_bytes())
            return
        path, tell = f"{self._store.root}/{key}", self._linked
        try:
            os.link(source, path)
        except OSError:  # file systems whose files have one name only
            shutil.copyfile(source, path)
            tell = self._written
        self.entries[key] = entry
        if tell is not None:
            tell(key)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write and note, if nothing is there."""
        if not await self.exists(key):
            await super().set_if_not_exists(key, value)
            self.note(key, value.as_numpy_array().data)

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        for key, value in values:
            await self.set(key, value)

    async def delete(self, key: str) -> None:
        """Delete and forget."""
        await super().delete(key)
        self.entries.pop(key, None)

    def note(self, key: str, data: bytes | memoryview) -> None:
        """Note a key's size and checksum."""
        self.entries[key] = (len(data), crc32(data))
        if self._written is not None:
            self._written(key)


def list_keys(store: Store) -> list[str]:
    """All keys of a store."""
    if type(store) is LocalStore:
        return _local_keys(store.root)

    async def collect() -> list[str]:
        return [key async for key in store.list()]

    found: Any = sync(collect())
    return list(found)


def _local_keys(root: Path) -> list[str]:
    """All files below a folder; a folder that has gone is an error, not an empty one."""

    def refuse(error: OSError) -> None:
        raise error

    return [
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root, onerror=refuse)
        for name in names
    ]
