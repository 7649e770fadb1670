"""Runs as they lie in NIfTI files, read forwards in blocks of volumes and checked to the end."""

import io
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from chunkglm._types import AnyArray
from chunkglm.alone import has_one_thread
from chunkglm.errors import ImageError
from chunkglm.io.files import HashedFile, NoPartsError, is_url, open_file, stamp
from chunkglm.io.inflate import GZIP_ERRORS, GzipReader
from chunkglm.io.nifti_header import (
    LARGEST_GZIP_RATIO,
    check_dtype,
    facts_of,
    load_header,
    raw_header,
    run_shape,
)
from chunkglm.io.prefetch import prefetched
from chunkglm.kernels.pages import own_pages
from chunkglm.memory import BLOCKS_AHEAD
from chunkglm.sizes import CHUNK_BYTES, even_blocks, parts, whole_blocks

_DISCARD = 1 << 20


@dataclass(frozen=True, slots=True)
class NiftiRun:
    """Where a run lies on disk and how its numbers are meant; no data is held."""

    path: str  # or URL
    shape: tuple[int, int, int, int]  # x, y, z, time
    dtype: np.dtype[Any]  # as in the file, byte order included
    offset: int  # bytes before the first sample
    slope: float
    intercept: float
    affine: tuple[tuple[float, ...], ...]  # 4 x 4, voxel to mm
    t_r: float | None  # seconds; None when the header has none
    header: bytes = field(repr=False)  # all before the first sample, or the .hdr, as it lies there
    compressed: bool
    size: int  # bytes of the file
    modified: str  # differs once the file has been rewritten
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)  # fsspec's, for a URL

    @property
    def volume_bytes(self) -> int:
        """Bytes of one volume, uncompressed."""
        x, y, z, _ = self.shape
        return x * y * z * self.dtype.itemsize

    @property
    def remote(self) -> bool:
        """Whether it lies behind a URL."""
        return is_url(self.path)

    @property
    def forward_only(self) -> bool:
        """Whether it is best read once, from start to end.

        A compressed file because any part is reached only past all that comes before it; a remote
        one because a stretch arrives sooner than its pieces, each of which costs a request.
        """
        return self.compressed or self.remote

    @property
    def plane_unit(self) -> int:
        """Planes that are read together at no extra cost."""
        return 1

    @property
    def token(self) -> str:
        """Tells this state of this file from any other."""
        return f"{self.path} {self.size} {self.modified}"

    @property
    def name(self) -> str:
        """The file's name, without its folder."""
        return self.path.rpartition("/")[2]

    def blocks(
        self,
        planes: range,
        n_volumes: int,
        *,
        even: bool = True,
        digest: Any = None,
        lasting: int = 1,
    ) -> Generator[tuple[int, AnyArray]]:
        """Read forwards, block by block.

        Parameters
        ----------
        planes : range
            Planes wanted; the rest is skipped, or read and dropped when compressed.
        n_volumes : int
            Largest number of volumes in a block.
        even : bool
            Blocks as even as possible; otherwise all but the last have `n_volumes`.
        digest : hashlib object, optional
            Given every byte of the file as it lies there, by the time the last block is.
        lasting : int
            Blocks that stay as they are: the last, and those before it.

        Yields
        ------
        first : int
            The block's first volume.
        block : (t, z, y, x) array
            In the file's dtype, unscaled; the next, or one after it, may overwrite it.

        Raises
        ------
        ImageError
            When the file is truncated, corrupt, or has changed since it was opened.
        """
        self._check_unchanged()
        times = (even_blocks if even else whole_blocks)(self.shape[3], n_volumes)
        forwards = self.forward_only or digest is not None
        beside = forwards and not has_one_thread()
        held = lasting - 1 + (BLOCKS_AHEAD if beside else 1)
        found = self._blocks(planes, times, held, forwards=forwards, digest=digest)
        if beside:
            # Decompression (one core, 0.45 GB/s) runs beside whatever is done with the blocks.
            with closing(prefetched(found)) as stream:
                yield from stream
        else:
            yield from found
        # A file rewritten in place while it was read gave some of each.
        self._check_unchanged()

    @property
    def chunks(self) -> tuple[int, int, int, int]:
        """Blocks in which the run is best looked at: whole volumes."""
        x, y, z, n_scans = self.shape
        return x, y, z, parts(n_scans, max(1, CHUNK_BYTES // self.volume_bytes))

    def read(self, planes: range, first: int, stop: int) -> AnyArray:
        """Read a range of volumes; a compressed file is read from its start each time.

        Parameters
        ----------
        planes : range
        first, stop : int

        Returns
        -------
        (t, z, y, x) array
            In the file's dtype, unscaled.
        """
        self._check_unchanged()
        times = [range(first, stop)]
        try:
            (found,) = self._blocks(planes, times, 1, forwards=self.compressed)
        except NoPartsError:
            (found,) = self._blocks(planes, times, 1, forwards=True)
        self._check_unchanged()
        return found[1]

    def _blocks(
        self, planes: range, times: list[range], held: int, *, forwards: bool, digest: Any = None
    ) -> Iterator[tuple[int, AnyArray]]:
        """Read blocks one after the other, in one way through the file; `held` stay as they are."""
        x, y, _, n_scans = self.shape
        longest = max(len(volumes) for volumes in times)
        # The same pages again: to touch new ones took a fifth of the time of decompression.
        pages = [
            own_pages((longest, len(planes), y, x), self.dtype)
            for _ in range(min(held, len(times)))
        ]
        plane_bytes = x * y * self.dtype.itemsize
        at = 0
        try:
            opened = self._open(forwards=forwards or self.compressed)
            if digest is not None:
                opened = HashedFile(opened, digest)
            with GzipReader(opened, again=self._open) if self.compressed else opened as file:
                for volumes, memory in zip(times, cycle(pages), strict=False):
                    block = memory[: len(volumes)]
                    for volume, t in zip(block, volumes, strict=True):
                        start = self.offset + t * self.volume_bytes + planes.start * plane_bytes
                        _skip(file, start - at, seekable=not forwards)
                        _fill(file, volume)
                        at = start + volume.nbytes
                    if volumes.stop == n_scans:
                        # Before the last block is handed on: only at its end does a gzip stream
                        # tell whether its checksum and length hold.
                        self._check_end(file, self.offset + n_scans * self.volume_bytes - at)
                        if digest is not None:
                            opened.finish()
                    yield volumes.start, block
        except GZIP_ERRORS as error:
            raise self._broken(error) from error

    def _open(self, *, forwards: bool = True) -> Any:
        return open_file(self.path, self.options, forwards=forwards)

    def _check_end(self, file: Any, n_bytes: int) -> None:
        """Read or measure what follows the image: a checksum, or what should not be there."""
        left_over = 0
        if self.compressed:
            _skip(file, n_bytes, seekable=False)
            while piece := file.read(_DISCARD):
                left_over += len(piece)
        else:
            left_over = self.size - self.offset - self.shape[3] * self.volume_bytes
        if left_over or (self.compressed and file.garbage):
            amount = f"{left_over} bytes" if left_over else "Bytes that are not gzip"
            msg = f"{self.path}: {amount} after the image were ignored"
            warnings.warn(msg, stacklevel=2)

    def _check_unchanged(self) -> None:
        try:
            size, modified = stamp(self.path, self.options)
        except OSError as error:
            msg = f"{self.path}: cannot be read any more ({error.strerror})"
            raise ImageError(msg) from error
        if (size, modified) != (self.size, self.modified):
            msg = (
                f"{self.path}: changed since it was opened ({self.size} bytes then, {size} "
                "now, or another time of writing); open it again"
            )
            raise ImageError(msg)

    def _broken(self, error: Exception) -> ImageError:
        expected = self.offset + self.shape[3] * self.volume_bytes
        return ImageError(
            f"{self.path}: cannot be read to its end ({error}); the header promises {expected} "
            f"bytes of image and the file is truncated or corrupt; copy or download it again"
        )


def open_nifti(path: str | Path, storage_options: Mapping[str, Any] | None = None) -> NiftiRun:
    """Read and check the header of a run.

    Parameters
    ----------
    path : str or Path
        ``.nii``, ``.nii.gz`` or ``.hdr``/``.img``, four-dimensional; or a URL of the first two.
    storage_options : mapping, optional
        Passed to fsspec with a URL.

    Returns
    -------
    NiftiRun

    Raises
    ------
    ImageError
        Naming the file and what is wrong with it.
    """
    options = dict(storage_options or {})
    opened = load_header(path, options)
    facts = facts_of(opened.image)
    shape = run_shape(path, facts.shape)
    check_dtype(path, facts.dtype)
    size, modified = stamp(opened.file, options)
    needed = facts.offset + int(np.prod(shape, dtype=object)) * facts.dtype.itemsize
    if needed > size * (LARGEST_GZIP_RATIO if opened.compressed else 1):
        msg = (
            f"{path}: the header promises {needed} bytes of image, but the file has "
            f"{size}{' (compressed)' if opened.compressed else ''}; it is truncated or its "
            "header is wrong"
        )
        raise ImageError(msg)
    return NiftiRun(
        path=opened.file,
        shape=shape,
        dtype=facts.dtype,
        offset=facts.offset,
        slope=facts.slope,
        intercept=facts.intercept,
        affine=facts.affine,
        t_r=facts.t_r,
        header=raw_header(opened, options),
        compressed=opened.compressed,
        size=size,
        modified=modified,
        options=options,
    )


def _skip(file: Any, n_bytes: int, *, seekable: bool) -> None:
    if seekable:
        if n_bytes:
            file.seek(n_bytes, io.SEEK_CUR)
        return
    while n_bytes > 0:
        piece = file.read(min(n_bytes, _DISCARD))
        if not piece:
            msg = f"{n_bytes} bytes are missing"
            raise EOFError(msg)
        n_bytes -= len(piece)


def _fill(file: Any, out: AnyArray) -> None:
    """Fill an array from a file, however few bytes each read brings."""
    view = memoryview(out.reshape(-1).view(np.uint8).data)
    done = 0
    while done < len(view):
        n = file.readinto(view[done:])
        if not n:
            msg = f"{len(view) - done} bytes are missing"
            raise EOFError(msg)
        done += n
