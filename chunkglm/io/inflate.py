"""Gzip files read forwards, to the last good byte, and told apart from what may follow them."""

import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

try:
    from isal import isal_zlib

    _zlib: Any = isal_zlib
except ImportError:  # machines for which isal has no build: three times slower, nothing else
    _zlib = zlib

# CRC-32 as zlib's: 49 GB/s where zlib does 3, a tenth of what a small mask's chunks cost to read.
crc32: Callable[[bytes | memoryview], int] = _zlib.crc32

GZIP_ERRORS: tuple[Any, ...] = (EOFError, OSError, zlib.error, _zlib.error)

MAGIC = b"\x1f\x8b"
_GZIP_FORMAT = 31  # zlib's number for: a gzip header, and its checksum and length verified
_PIECE = 1 << 18  # compressed bytes read at once: less, and threads take turns too often


class GzipReader:
    """Reads a gzip file of one or several members.

    igzip's own reader drops all that it holds when an error follows it, so that one stray byte
    after the image costs the last blocks, or the whole of a small file. This one hands out
    everything before the error first.
    """

    def __init__(self, file: Any, begun: bytes = b"") -> None:
        self._file = file  # opened for reading bytes; closed with the reader
        self._member = _zlib.decompressobj(_GZIP_FORMAT)
        self._waiting = begun  # compressed, read from the file and not yet used
        self._ended = False
        self.garbage = False  # whether bytes that are not gzip follow; known at the end

    def __enter__(self) -> "GzipReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, n_bytes: int) -> bytes:
        """Read at most `n_bytes`, none at the end.

        Raises
        ------
        EOFError
            When the file ends within a member.
        zlib.error
            When the stream is damaged, or its checksum or length is another.
        """
        while n_bytes > 0 and not self._ended:
            if self._member.eof:
                self._next_member()
                continue
            if not self._waiting:
                self._waiting = self._file.read(_PIECE)
                if not self._waiting:
                    msg = "the compressed stream breaks off"
                    raise EOFError(msg)
            piece: bytes = self._member.decompress(self._waiting, n_bytes)
            self._waiting = self._member.unconsumed_tail
            if piece:
                return piece
        return b""

    def readinto(self, out: memoryview) -> int:
        """Read into memory; returns the number of bytes, 0 at the end."""
        piece = self.read(len(out))
        out[: len(piece)] = piece
        return len(piece)

    def _next_member(self) -> None:
        rest = self._member.unused_data
        # Padding with zeros is part of the format's customs; anything else is not.
        while len(rest := rest.lstrip(b"\0")) < len(MAGIC):
            more = self._file.read(_PIECE)
            if not more:
                break
            rest += more
        if rest.startswith(MAGIC):
            self._member, self._waiting = _zlib.decompressobj(_GZIP_FORMAT), rest
        else:
            self._ended, self.garbage = True, bool(rest)


def check_gzip(path: Path) -> None:
    """Read a compressed file to its end, where its checksum is; nibabel stops before.

    Raises
    ------
    EOFError, OSError, zlib.error
        When it is damaged. Files that are not gzip pass.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return
    with GzipReader(path.open("rb", buffering=0)) as stream:
        while stream.read(1 << 20):
            pass


def read_gzip(path: Path) -> bytes:
    """Read a small file whole, decompressed if it is gzip, its checksum compared.

    Raises
    ------
    EOFError, OSError, zlib.error
        When it is damaged.
    """
    raw = path.read_bytes()
    if raw[: len(MAGIC)] != MAGIC:
        return raw
    with GzipReader(BytesIO(), raw) as stream:
        return b"".join(iter(lambda: stream.read(1 << 26), b""))
