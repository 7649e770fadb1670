"""Files on disk or behind a URL, opened for reading; nothing here writes."""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from chunkglm.errors import ChunkglmError, ImageError

# Bytes fetched ahead of a reader that goes forwards through a remote file.
_AHEAD = 8 << 20

# Bytes read at once, how many such pieces are hashed at once, and how often as many may wait. Each
# time the thread that hashes is woken, it takes the core of another.
_PIECE = 1 << 18
_PIECES_HASHED = 8
_WAITING = 2

WEB = ("http://", "https://")

_S3 = ("s3://", "s3a://")
# botocore's: one more try after at most a second. Of a server that asks to slow down s3fs knows.
_S3_CONFIG = {"connect_timeout": 3, "retries": {"mode": "standard", "total_max_attempts": 2}}

# What file systems call the thing that changes when a file is rewritten, the surest first.
_STAMPS = (
    "ETag", "etag", "generation", "version_id", "LastModified", "Last-Modified", "last_modified",
    "mtime", "modified", "created",
)  # fmt: skip


def is_url(path: object) -> bool:
    """Whether a path is a URL such as ``s3://bucket/run.nii.gz`` and not a file of that name."""
    text = str(path)
    return "://" in text and not Path(text).exists()


class NoPartsError(ImageError):
    """A web server that gives a file only whole was asked for a part."""


class RemoteFile:
    """A file behind a URL; whatever the network does is told in one line that names the file."""

    def __init__(self, file: Any, url: str) -> None:
        self._file, self._url = file, url

    def __enter__(self) -> "RemoteFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, n_bytes: int) -> bytes:
        """Read `n_bytes`, or what is left of the file."""
        pieces = []
        with reaching(self._url):
            # A stream hands out what has arrived, however little that is.
            while n_bytes > 0 and (piece := self._file.read(n_bytes)):
                pieces.append(piece)
                n_bytes -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readinto(self, out: memoryview) -> int:
        """Read into memory; returns the number of bytes, 0 at the end."""
        piece = self.read(len(out))
        out[: len(piece)] = piece
        return len(piece)

    def seek(self, n_bytes: int, whence: int = 0) -> None:
        """Go to a byte; nothing is fetched until it is read."""
        with reaching(self._url):
            self._file.seek(n_bytes, whence)

    def close(self) -> None:
        """Close it; that the far end is gone is no news then."""
        with suppress(Exception):
            self._file.close()


class HashedFile:
    """A file read forwards, whose bytes go into a checksum as they lie there.

    The checksum is made in a thread of its own: it costs a fifth of what decompression does.
    """

    def __init__(self, file: Any, digest: Any) -> None:
        self._file, self._digest = file, digest
        self._thread = ThreadPoolExecutor(1, "chunkglm-checksum")
        self._begun: deque[Future[None]] = deque()
        self._pieces: list[bytes] = []

    def __enter__(self) -> "HashedFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, n_bytes: int) -> bytes:
        """Read `n_bytes`, or what comes at once."""
        piece: bytes = self._file.read(n_bytes)
        self._hash(piece)
        return piece

    def readinto(self, out: memoryview) -> int:
        """Read into memory; returns the number of bytes, 0 at the end."""
        n: int = self._file.readinto(out[:_PIECE])
        # A copy: whoever reads may write there before it is hashed.
        self._hash(bytes(out[:n]))
        return n

    def _hash(self, piece: bytes) -> None:
        self._pieces.append(piece)
        if len(self._pieces) == _PIECES_HASHED:
            self._hash_pieces()
        if len(self._begun) > _WAITING:
            self._begun.popleft().result()

    def _hash_pieces(self) -> None:
        self._begun.append(self._thread.submit(self._update, self._pieces))
        self._pieces = []

    def _update(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._digest.update(piece)

    def finish(self) -> None:
        """Take what is left of the file into the checksum, and wait for it."""
        while self.read(_PIECE):
            pass
        self._hash_pieces()
        self._thread.shutdown()

    def close(self) -> None:
        """Close it."""
        self._thread.shutdown(cancel_futures=True)
        self._file.close()


def open_file(
    path: str, options: Mapping[str, Any], *, forwards: bool = True, ahead: int = _AHEAD
) -> Any:
    """Open for reading bytes.

    Parameters
    ----------
    path : str
        A local path, or a URL that fsspec knows.
    options : mapping
        Passed to fsspec with a URL.
    forwards : bool
        Whether it is read from the start, without seeking.
    ahead : int
        Bytes of a remote file to fetch beyond those asked for.

    Raises
    ------
    ImageError
        When a URL cannot be opened; the message names it and the cause.
    OSError
        When a local file cannot be opened.
    """
    if not is_url(path):
        return Path(path).open("rb", buffering=0)
    with reaching(path):
        found, inside = file_system(path, options)
        if forwards and path.startswith(WEB):
            # One request for all of it: many servers give no parts of a file.
            opened = found.open(inside, "rb", block_size=0)
        else:
            opened = found.open(inside, "rb", block_size=ahead, cache_type="readahead")
    return RemoteFile(opened, path)


def stamp(path: str, options: Mapping[str, Any]) -> tuple[int, str]:
    """Size in bytes, and a text that differs once the file has been rewritten."""
    if not is_url(path):
        found = Path(path).stat()
        return found.st_size, str(found.st_mtime_ns)
    with reaching(path):
        found_in, inside = file_system(path, options)
        # Listings are remembered by file systems such as s3fs, and would tell of the old file.
        found_in.invalidate_cache(inside)
        info = found_in.info(inside)
    if info.get("size") is None:
        msg = f"{path}: the server does not tell the file's size; download it first"
        raise ImageError(msg)
    told = next((str(info[name]) for name in _STAMPS if info.get(name) is not None), "")
    return int(info["size"]), told


def file_system(path: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, and the path inside."""
    # fsspec takes 0.1 s to import, and local files do not need it.
    from fsspec.core import url_to_fs

    found: tuple[Any, str] = url_to_fs(path, **in_seconds(path, options))
    return found


def in_seconds(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a file system that tells within seconds of a host that is down.

    s3fs tries five times, with pauses that grow, for each of several requests: 7 to 23 s. What the
    user has set stays.
    """
    found = dict(options)
    if url.startswith(_S3) and isinstance(own := found.get("config_kwargs", {}), Mapping):
        found["config_kwargs"] = {**_S3_CONFIG, **own}
    return found


@contextmanager
def reaching(label: str, kind: type[ChunkglmError] = ImageError) -> Iterator[None]:
    """Turn whatever goes wrong behind a URL into one line that names it.

    Parameters
    ----------
    label : str
        What the message calls it.
    kind : type
        Of the error raised.

    Raises
    ------
    ChunkglmError
        Of that kind. File systems raise errors of their own libraries, which have no base in
        common: botocore's, aiohttp's, those of the system.
    """
    try:
        yield
    except ChunkglmError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and "range requests" in str(error):
            raise NoPartsError(_why(label, error)) from error
        raise kind(_why(label, error)) from error


def _why(label: str, error: Exception) -> str:
    cause = " ".join(str(error).split())
    if isinstance(error, FileNotFoundError):
        return f"{label}: is not there ({cause}); check the address"
    if isinstance(error, PermissionError):
        return f"{label}: access is denied ({cause}); check the credentials in storage_options"
    name = type(error).__name__
    cause = f"{name}: {cause}" if cause and cause != name else name
    return f"{label}: cannot be reached ({cause}); check address, network and storage_options"
