"""Runs as they lie in NIfTI files, read forwards in blocks of volumes and checked to the end."""

import warnings
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from chunkglm._types import AnyArray
from chunkglm.errors import ImageError
from chunkglm.io.inflate import GZIP_ERRORS, MAGIC, GzipReader
from chunkglm.io.prefetch import prefetched
from chunkglm.plan import CHUNK_BYTES, even_blocks, parts

# Deflate cannot expand more than this; a header that claims more lies.
LARGEST_GZIP_RATIO = 1032

# xyzt_units codes for time, in seconds. An unset unit is read as seconds, as other packages do.
SECONDS_PER_UNIT = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6, "unknown": 1.0}

# nibabel reads these too, but a run in one of them would be taken for a plain file here.
_OTHER_COMPRESSIONS = (".bz2", ".zst", ".xz")

_HEADER_ERRORS = (
    ImageFileError, HeaderDataError, ValueError, OSError, EOFError, OverflowError, zlib.error,
)  # fmt: skip

_DISCARD = 1 << 20


@dataclass(frozen=True, slots=True)
class NiftiRun:
    """Where a run lies on disk and how its numbers are meant; no data is held."""

    path: str
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
    modified: int  # nanoseconds

    @property
    def volume_bytes(self) -> int:
        """Bytes of one volume, uncompressed."""
        x, y, z, _ = self.shape
        return x * y * z * self.dtype.itemsize

    @property
    def forward_only(self) -> bool:
        """Whether any part can be reached only by reading all that comes before it."""
        return self.compressed

    @property
    def plane_unit(self) -> int:
        """Planes that are read together at no extra cost."""
        return 1

    @property
    def label(self) -> str:
        """What error messages call this run."""
        return self.path

    def blocks(self, planes: range, n_volumes: int) -> Iterator[tuple[int, AnyArray]]:
        """Read forwards, block by block.

        Parameters
        ----------
        planes : range
            Planes wanted; the rest is skipped, or read and dropped when compressed.
        n_volumes : int
            Largest number of volumes in a block; blocks are as even as possible.

        Yields
        ------
        first : int
            The block's first volume.
        block : (t, z, y, x) array
            In the file's dtype, unscaled.

        Raises
        ------
        ImageError
            When the file is truncated, corrupt, or has changed since it was opened.
        """
        self._check_unchanged()
        if self.compressed:
            # Decompression (one core, 0.45 GB/s) runs beside whatever is done with the blocks.
            with closing(prefetched(self._compressed_blocks(n_volumes))) as stream:
                for first, block in stream:
                    yield first, block[:, planes.start : planes.stop]
        else:
            yield from self._plain_blocks(planes, n_volumes)
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
        x, y, z, _ = self.shape
        out = np.empty((stop - first, z, y, x), self.dtype)
        try:
            with self._open() as file:
                _skip(file, self.offset + first * self.volume_bytes, seekable=not self.compressed)
                _fill(file, out)
                if stop == self.shape[3]:
                    # Whoever looks at all of a run then has seen its checksum.
                    self._check_end(file)
        except GZIP_ERRORS as error:
            raise self._broken(error) from error
        self._check_unchanged()
        return out[:, planes.start : planes.stop]

    def _open(self) -> Any:
        return open_binary(Path(self.path), compressed=self.compressed)

    def _compressed_blocks(self, n_volumes: int) -> Iterator[tuple[int, AnyArray]]:
        x, y, z, n_scans = self.shape
        try:
            with self._open() as file:
                _skip(file, self.offset, seekable=False)
                for volumes in even_blocks(n_scans, n_volumes):
                    block = np.empty((len(volumes), z, y, x), self.dtype)
                    _fill(file, block)
                    if volumes.stop == n_scans:
                        # Before the last block is handed on: only at its end does a gzip stream
                        # tell whether its checksum and length hold.
                        self._check_end(file)
                    yield volumes.start, block
        except GZIP_ERRORS as error:
            raise self._broken(error) from error

    def _plain_blocks(self, planes: range, n_volumes: int) -> Iterator[tuple[int, AnyArray]]:
        x, y, _, n_scans = self.shape
        before = planes.start * x * y * self.dtype.itemsize
        try:
            with Path(self.path).open("rb", buffering=0) as file:
                for volumes in even_blocks(n_scans, n_volumes):
                    block = np.empty((len(volumes), len(planes), y, x), self.dtype)
                    for volume, t in zip(block, volumes, strict=True):
                        file.seek(self.offset + t * self.volume_bytes + before)
                        _fill(file, volume)
                    if volumes.stop == n_scans:
                        self._check_end(file)
                    yield volumes.start, block
        except (EOFError, OSError) as error:
            raise self._broken(error) from error

    def _check_end(self, file: Any) -> None:
        """Read or measure what follows the image: a checksum, or what should not be there."""
        left_over = 0
        if self.compressed:
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
            now = Path(self.path).stat()
        except OSError as error:
            msg = f"{self.path}: cannot be read any more ({error.strerror})"
            raise ImageError(msg) from error
        if (now.st_size, now.st_mtime_ns) != (self.size, self.modified):
            msg = (
                f"{self.path}: changed since it was opened ({self.size} bytes then, {now.st_size} "
                "now, or another time of writing); open it again"
            )
            raise ImageError(msg)

    def _broken(self, error: Exception) -> ImageError:
        expected = self.offset + self.shape[3] * self.volume_bytes
        return ImageError(
            f"{self.path}: cannot be read to its end ({error}); the header promises {expected} "
            f"bytes of image and the file is truncated or corrupt; copy or download it again"
        )


def open_nifti(path: str | Path) -> NiftiRun:
    """Read and check the header of a run.

    Parameters
    ----------
    path : str or Path
        ``.nii``, ``.nii.gz`` or ``.hdr``/``.img``, four-dimensional.

    Returns
    -------
    NiftiRun

    Raises
    ------
    ImageError
        Naming the file and what is wrong with it.
    """
    image, file = _load_header(Path(path))
    proxy = image.dataobj
    shape = tuple(int(n) for n in proxy.shape)
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if min(shape) < 1:
        msg = f"{path}: the header's dimensions must be positive, but are {shape}; it is damaged"
        raise ImageError(msg)
    if len(shape) != 4:
        msg = f"{path}: a run must have 4 dimensions (x, y, z, time), but this image has {shape}"
        raise ImageError(msg)
    if shape[3] < 2:
        msg = f"{path}: a run needs several volumes, but this image has {shape[3]}"
        raise ImageError(msg)
    check_dtype(path, proxy.dtype)
    slope, intercept = float(proxy.slope), float(proxy.inter)
    stat = file.stat()
    compressed = _is_gzip(file)
    offset = int(proxy.offset)
    needed = offset + int(np.prod(shape, dtype=object)) * proxy.dtype.itemsize
    holds = stat.st_size * (LARGEST_GZIP_RATIO if compressed else 1)
    if needed > holds:
        msg = (
            f"{path}: the header promises {needed} bytes of image, but the file has "
            f"{stat.st_size}{' (compressed)' if compressed else ''}; it is truncated or its "
            "header is wrong"
        )
        raise ImageError(msg)
    return NiftiRun(
        path=str(file),
        shape=shape,
        dtype=proxy.dtype,
        offset=offset,
        slope=slope,
        intercept=intercept,
        affine=tuple(tuple(float(v) for v in row) for row in image.affine),
        t_r=_repetition_time(image.header),
        header=_raw_header(image, offset),
        compressed=compressed,
        size=stat.st_size,
        modified=stat.st_mtime_ns,
    )


def check_dtype(path: str | Path, dtype: np.dtype[Any]) -> None:
    """Refuse RGB and complex images, which hold no time series."""
    if dtype.kind not in "iufb" or (dtype.kind == "f" and dtype.itemsize > 8):
        msg = f"{path}: voxels must be integers or floats of up to 64 bits, but they are {dtype}"
        raise ImageError(msg)


def _load_header(path: Path) -> tuple[Any, Path]:
    if not path.exists():
        msg = f"{path}: no such file"
        raise ImageError(msg)
    if path.is_dir():
        msg = f"{path}: is a folder, not a NIfTI file or a run's store"
        raise ImageError(msg)
    if path.suffix.lower() in _OTHER_COMPRESSIONS:
        msg = f"{path}: is compressed in a way that is not read; decompress it, or use gzip"
        raise ImageError(msg)
    try:
        image = nib.load(path)
    except _HEADER_ERRORS as error:
        cause = " ".join(str(error).split())
        msg = f"{path}: is not a NIfTI file that can be read ({cause})"
        raise ImageError(msg) from error
    if not isinstance(image, nib.Nifti1Pair):
        msg = f"{path}: must be a NIfTI image, but is {type(image).__name__}"
        raise ImageError(msg)
    file = Path(image.file_map["image"].filename)
    if not file.exists():
        msg = f"{file}: no such file, though its header {path} is there; a pair needs both"
        raise ImageError(msg)
    return image, file


def open_binary(file: Path, *, compressed: bool) -> Any:
    """Open a file for reading forwards, inflated when it is compressed."""
    return GzipReader(file) if compressed else file.open("rb")


def _is_gzip(file: Path) -> bool:
    with file.open("rb") as start:
        return start.read(len(MAGIC)) == MAGIC


def _raw_header(image: Any, offset: int) -> bytes:
    """Everything before the image as it lies in the file, or the whole header file of a pair."""
    file, n_bytes = Path(image.file_map["image"].filename), offset
    if "header" in image.file_map and image.file_map["header"].filename:
        file = Path(image.file_map["header"].filename)
        n_bytes = file.stat().st_size * LARGEST_GZIP_RATIO
    pieces = []
    try:
        with open_binary(file, compressed=_is_gzip(file)) as start:
            while n_bytes > 0 and (piece := start.read(min(n_bytes, _DISCARD))):
                pieces.append(piece)
                n_bytes -= len(piece)
    except GZIP_ERRORS as error:
        msg = f"{file}: the header cannot be read ({error}); the file is truncated or corrupt"
        raise ImageError(msg) from error
    return b"".join(pieces)


def _repetition_time(header: Any) -> float | None:
    try:
        unit = header.get_xyzt_units()[1]
    except KeyError:
        unit = "unknown"
    t_r = float(header["pixdim"][4]) * SECONDS_PER_UNIT.get(unit, 1.0)
    return t_r if np.isfinite(t_r) and t_r > 0 else None


def _skip(file: Any, n_bytes: int, *, seekable: bool) -> None:
    if seekable:
        file.seek(n_bytes)
        return
    while n_bytes > 0:
        piece = file.read(min(n_bytes, _DISCARD))
        if not piece:
            msg = "the file ends before the image begins"
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
