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

# igzip's own reader decompresses into the memory it is given: a tenth of the time less than what
# its decompressor returns costs to make, to lengthen and to copy. Where it is not there, the same
# is read without it.
_Quick: Any = getattr(_zlib, "_GzipReader", None)

MAGIC = b"\x1f\x8b"
_GZIP_FORMAT = 31  # zlib's number for: a gzip header, and its checksum and length verified
_MOST_PACKED = 1032  # bytes that deflate makes of one, at most
_PIECE = 1 << 18  # compressed bytes read at once: less, and threads take turns too often


class GzipReader:
    """Reads a gzip file of one or several members.

    igzip's own reader drops all that it holds when an error follows it, so that one stray byte
    after the image costs the last blocks, or the whole of a small file. This one hands out
    everything before the error first: what igzip's refuses is read anew from the start.

    Parameters
    ----------
    file : file
        Opened for reading bytes; closed with the reader.
    begun : bytes, optional
        What has been read of it.
    again : callable, optional
        Opens the file once more, at its start. Without it igzip's reader is not used.
    """

    def __init__(
        self, file: Any, begun: bytes = b"", again: Callable[[], Any] | None = None
    ) -> None:
        self._file = self._opened = file
        self._again = again
        self._quick = None if again is None or _Quick is None else _Quick(file, _PIECE)
        self._given = 0  # bytes, by igzip's reader
        self._member = _zlib.decompressobj(_GZIP_FORMAT)
        self._waiting = begun  # compressed, read from the file and not yet used
        self._ended = False
        self.garbage = False  # whether bytes that are not gzip follow; known at the end

    def __enter__(self) -> "GzipReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._opened.close()

    def read(self, n_bytes: int) -> bytes:
        """Read at most `n_bytes`, none at the end.

        Raises
        ------
        EOFError
            When the file ends within a member.
        zlib.error
            When the stream is damaged, or its checksum or length is another.
        """
        found: bytes | None = self._quickly("read", n_bytes, len)
        if found is not None:
            return found
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
        n: int | None = self._quickly("readinto", out, int)
        if n is not None:
            return n
        piece = self.read(len(out))
        out[: len(piece)] = piece
        return len(piece)

    def _quickly(self, method: str, argument: Any, size: Callable[[Any], int]) -> Any:
        """What igzip's reader gives, `size` bytes of it; None without it, or from its error on."""
        if self._quick is None:
            return None
        try:
            found = getattr(self._quick, method)(argument)
        except GZIP_ERRORS:
            self._start_again()
            return None
        self._given += size(found)
        return found

    def _start_again(self) -> None:
        """Go on without igzip's reader, from the byte after the last that it gave."""
        assert self._again is not None  # noqa: S101 - there is no such reader without
        self._quick, self._file = None, self._again()
        while self._given > 0 and (piece := self.read(min(self._given, _PIECE))):
            self._given -= len(piece)

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


def inflated_size(raw: bytes) -> int:
    """Bytes that a gzip file holds, as its end says; 0 where that cannot be.

    Of several members that of the last one, and never more than 4 GB: good for making room only.
    """
    said = int.from_bytes(raw[-4:], "little") if raw[: len(MAGIC)] == MAGIC else 0
    return said if said <= _MOST_PACKED * len(raw) else 0


def inflate(raw: bytes, room: memoryview) -> memoryview:
    """Decompress a small file whole, its checksum compared, if it is gzip.

    Parameters
    ----------
    raw : bytes
    room : memoryview
        Of bytes, as many as `inflated_size` says; overwritten.

    Returns
    -------
    memoryview
        That can be written: of the room, where all fits in.

    Raises
    ------
    EOFError, OSError, zlib.error
        When it is damaged.
    """
    if raw[: len(MAGIC)] != MAGIC:
        return memoryview(bytearray(raw))
    with GzipReader(BytesIO(raw), again=lambda: BytesIO(raw)) as stream:
        n = 0
        while n < len(room) and (read := stream.readinto(room[n:])):
            n += read
        more = b"".join(iter(lambda: stream.read(1 << 26), b""))
    return memoryview(bytearray(room[:n]) + more) if more else room[:n]
