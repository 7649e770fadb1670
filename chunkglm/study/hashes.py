"""What files hold, in a few words: enough to tell whether they have changed."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from chunkglm.io.files import is_url

_PIECE = 1 << 20


class Stamp(NamedTuple):
    """A file as it was: size, time of its last change, and SHA-256 of its content."""

    size: int
    mtime_ns: int
    sha256: str


def stamp_file(path: str, storage_options: Mapping[str, Any]) -> Stamp:
    """Read a file, or what identifies a store, whole.

    Parameters
    ----------
    path : str
        A file; a store, which its manifest identifies; or a URL, which is not read but known by
        what its server tells of it.
    storage_options : mapping
        Passed to fsspec with a URL.
    """
    if is_url(path):
        from fsspec.core import url_to_fs

        system, inside = url_to_fs(path, **storage_options)
        known = system.ukey(inside)
        size = system.info(inside).get("size") or 0
        return Stamp(int(size), 0, hashlib.sha256(str(known).encode()).hexdigest())
    read = _identity_of(path)
    info = os.stat(read)  # noqa: PTH116
    return Stamp(info.st_size, info.st_mtime_ns, sha256_of(read))


def _identity_of(path: str) -> str:
    """A store's manifest in place of its folder."""
    if not Path(path).is_dir():
        return path
    from chunkglm.io.manifest import NAME

    found = sorted(Path(path).glob(f"*/{NAME}"))
    return str(found[0]) if found else str(Path(path) / "zarr.json")


def sha256_of(path: str) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as file:  # noqa: PTH123
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_changed(path: str, before: Stamp, storage_options: Mapping[str, Any]) -> bool:
    """Whether a file holds something else than it did; read only if size or time differ."""
    if is_url(path):
        return stamp_file(path, storage_options).sha256 != before.sha256
    try:
        read = _identity_of(path)
        info = os.stat(read)  # noqa: PTH116
    except OSError:
        return True
    if (info.st_size, info.st_mtime_ns) == (before.size, before.mtime_ns):
        return False
    return info.st_size != before.size or sha256_of(read) != before.sha256
