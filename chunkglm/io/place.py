"""Where a store is: a folder, a URL that fsspec knows, or a zarr store object."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore

from chunkglm.errors import StoreError
from chunkglm.io.files import file_system, in_seconds, is_url, reaching
from chunkglm.io.remote import RemoteStore


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is; it can be sent anywhere, unless it is a store object in memory."""

    label: str  # what messages call it
    folder: Path | None = None
    url: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    store: Store | None = None

    def open(self, *, read_only: bool) -> Store:
        """Open it as a zarr store."""
        if self.folder is not None:
            return LocalStore(self.folder, read_only=read_only)
        if self.url is not None:
            with reaching(self.label, StoreError):
                found = FsspecStore.from_url(
                    self.url,
                    storage_options=in_seconds(self.url, self.options),
                    read_only=read_only,
                )
            return RemoteStore(found, self.label)
        assert self.store is not None  # noqa: S101 - place_of makes no other
        store = self.store
        if isinstance(store, FsspecStore):
            return RemoteStore(store.with_read_only(read_only or store.read_only), self.label)
        if read_only:
            # Not every store can: nothing here writes to one that was opened to be read.
            with contextlib.suppress(NotImplementedError):
                return store.with_read_only(read_only=True)
        return store

    def beside(self, name: str) -> "Place":
        """Place a sibling of this store, a folder or URL of another name."""
        if self.folder is not None:
            folder = self.folder.with_name(name)
            return Place(str(folder), folder=folder)
        assert self.url is not None  # noqa: S101 - store objects have no siblings
        url = f"{self.url.rstrip('/').rpartition('/')[0]}/{name}"
        return Place(url, url=url, options=self.options)

    @property
    def has_siblings(self) -> bool:
        """Whether a URL has room beside it; a bucket taken whole has none."""
        return "/" in str(self.url).partition("://")[2].strip("/")

    def siblings(self, start: str, end: str) -> list[str]:
        """List URLs of siblings whose names begin and end so."""
        above = str(self.url).rstrip("/").rpartition("/")[0]
        with reaching(self.label, StoreError):
            found, inside = file_system(above, self.options)
            # Listings are remembered by file systems such as s3fs, and would be old.
            found.invalidate_cache(inside)
            try:
                names = [str(n).rstrip("/").rpartition("/")[2] for n in found.ls(inside, False)]
            except FileNotFoundError:
                return []
        return [f"{above}/{n}" for n in names if n.startswith(start) and n.endswith(end)]

    def remove(self) -> None:
        """Remove what lies behind a URL, if anything does."""
        with reaching(self.label, StoreError), contextlib.suppress(FileNotFoundError):
            found, inside = file_system(str(self.url), self.options)
            found.rm(inside, recursive=True)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.label.rstrip("/").rpartition("/")[2]


def place_of(store: Any, storage_options: Mapping[str, Any] | None = None) -> Place:
    """Read what a user calls a store.

    Parameters
    ----------
    store : str, Path, zarr store, or Place
        A folder, a URL that fsspec knows, or any zarr store object.
    storage_options : mapping, optional
        Passed to fsspec with a URL.

    Returns
    -------
    Place

    Raises
    ------
    StoreError
        When options are given for what is not a URL.
    """
    if isinstance(store, Place):
        return store
    if type(store) is LocalStore:
        # As a folder, so that it is replaced as a whole.
        return Place(str(store.root), folder=store.root)
    if isinstance(store, Store):
        return Place(str(store), store=store)
    if is_url(store):
        url = str(store)
        if url.startswith("file://"):
            return Place(url, folder=Path(url.removeprefix("file://")))
        return Place(url, url=url, options=dict(storage_options or {}))
    if storage_options:
        msg = f"{store}: storage_options are for URLs, and this is a local path; leave them out"
        raise StoreError(msg)
    return Place(str(store), folder=Path(store))
