"""Writing NIfTI images: atomically, with the same bytes each time, in bounded memory."""

import errno
import gzip
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import ArrayLike, DTypeLike

from chunkglm._types import AnyArray
from chunkglm.errors import ImageError
from chunkglm.io.flush import sync_file

SUFFIXES = (".nii", ".nii.gz")

# What a template header may say about a new image: where and when, never what. The intent,
# display range, scaling and history of the template would be false of other data.
_SPACE_FIELDS = (
    "dim_info", "pixdim", "slice_start", "slice_end", "slice_code", "slice_duration", "toffset",
    "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z",
)  # fmt: skip

# An affine is stored in float32: it is the header's own if it differs by no more than that.
_AFFINE_RTOL = 1e-6
_ALIGNED = 2  # the sform code of an image on some other image's grid

# zlib, though igzip is four times as fast: of 600 maps that igzip compressed twice, two came out as
# other bytes (of the same content), as memory had held other things before. Who compares results
# by their bytes would look for what is not there.
_ZLIB_LEVEL = 1
# For floats that are noise where they are not 0: there are no words to be found in them, only runs
# of zeros. Half of the time, 35 ms for a map of 91 x 109 x 91, and files 2 % smaller; but those of
# another constant (p is 1 outside the mask) would be 29 % larger.
ANYTHING, NOISE_AND_ZEROS = zlib.Z_DEFAULT_STRATEGY, zlib.Z_RLE
_BLOCK_BYTES = 16 * 2**20

_FLUSHED_AT_ONCE = 4


@contextmanager
def atomic_writer(path: str | os.PathLike[str], *, flush: bool = True) -> Iterator[BinaryIO]:
    """Open a file that appears under its name only when it is complete.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write. An existing file stays whole until it is replaced.
    flush : bool
        Wait until it is on the disk. False for files that are brought there together, by who asks.

    Yields
    ------
    BinaryIO
        The temporary file beside `path`. It is removed if the block fails.

    Raises
    ------
    ImageError
        If the file cannot be written.
    """
    # Resolved, so that writing to a symbolic link writes the file it points to.
    target = Path(path).resolve()
    temporary = target.with_name(f".{target.name[:200]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield cast(BinaryIO, file)
            file.flush()
            if flush:
                os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        # What the block raises of its own (a bad input, another file) passes unchanged: only a
        # failed write has an error number and no file name but the temporary one.
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise ImageError(_write_failure(target, error)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def flushing() -> Iterator[Callable[[Path], None]]:
    """Bring files to the disk while others are made; all of them are there after the block.

    Yields
    ------
    callable
        To be told each file that has been written.

    Raises
    ------
    ImageError
        Naming the first that cannot be written.
    """
    begun: list[tuple[Path, Future[None]]] = []
    with ThreadPoolExecutor(_FLUSHED_AT_ONCE, "chunkglm-flush") as threads:
        yield lambda path: begun.append((path, threads.submit(sync_file, path)))
    for path, flushed in begun:
        try:
            flushed.result()
        except OSError as error:
            raise ImageError(_write_failure(path, error)) from error


def _write_failure(target: Path, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"{target}: cannot be written, there is no folder {target.parent}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(target.parent).free
        return f"{target}: cannot be written, the disk is full ({free:,} bytes free)"
    return f"{target}: cannot be written: {error.strerror or error}"


@contextmanager
def gzip_writer(
    path: str | os.PathLike[str], *, flush: bool = True, strategy: int = ANYTHING
) -> Iterator[BinaryIO]:
    """Open a gzip file for writing: atomic, fast, and the same bytes for the same data.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write, under the terms of `atomic_writer`.
    flush : bool
        As there.
    strategy : int
        What zlib may expect of the data: `ANYTHING`, or `NOISE_AND_ZEROS`.

    Yields
    ------
    BinaryIO
        Neither time nor file name is stored.
    """
    with (
        atomic_writer(path, flush=flush) as raw,
        gzip.GzipFile("", "wb", _ZLIB_LEVEL, raw, mtime=0) as file,
    ):
        # As it makes its own, but for the strategy, which it does not ask for.
        file.compress = zlib.compressobj(
            _ZLIB_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy
        )
        yield cast(BinaryIO, file)


def make_header(
    shape: tuple[int, ...],
    dtype: DTypeLike,
    affine: ArrayLike,
    *,
    header: Any = None,
    descrip: str | None = None,
) -> nib.Nifti1Header:
    """Build the NIfTI-1 header of an image that is about to be written.

    Parameters
    ----------
    shape : tuple of int
        (x, y, z) or (x, y, z, t).
    dtype : dtype
        The type on disk, always little-endian.
    affine : (4, 4) array
        Voxel indices to millimetres.
    header : nibabel header, optional
        The image's template: units, voxel sizes, TR, slice timing and sform and qform are taken
        from it. Where `affine` is another than its own, the sform becomes `affine`, under the
        same code, and the qform is marked unknown. Extensions are not copied.
    descrip : str, optional
        Up to 79 bytes of description.

    Returns
    -------
    nibabel.Nifti1Header
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ImageError(f"an affine must be 4 by 4 and finite, but got {matrix.tolist()}")
    new = nib.Nifti1Header(endianness="<")
    if header is None:
        new.set_xyzt_units("mm", "sec")
        code = _ALIGNED
    else:
        for field in set(_SPACE_FIELDS).intersection(header.keys()):
            new[field] = header[field]
        code = int(new["sform_code"]) or _ALIGNED
    if max(shape) > np.iinfo(np.int16).max:
        # nibabel would write a FreeSurfer surface's header, which other readers cannot use.
        raise ImageError(f"NIfTI-1 cannot hold shape {shape}: an axis is longer than 32,767")
    try:
        new.set_data_shape(shape)
        new.set_data_dtype(np.dtype(dtype).newbyteorder("<"))
    except (HeaderDataError, TypeError) as error:
        raise ImageError(f"NIfTI-1 cannot hold shape {shape} as {dtype}: {error}") from error
    tolerance = _AFFINE_RTOL * float(np.abs(matrix).max())
    if header is None or np.abs(new.get_best_affine() - matrix).max() > tolerance:
        new.set_sform(matrix, code=code)
        new.set_qform(matrix, code="unknown")
    new["scl_slope"], new["scl_inter"] = 1, 0
    if descrip is not None:
        text = descrip.encode()
        if len(text) > 79:
            raise ImageError(f"descrip must be at most 79 bytes, but got {len(text)}: {descrip!r}")
        new["descrip"] = text
    return new


def write_image(
    path: str | os.PathLike[str],
    data: ArrayLike,
    affine: ArrayLike,
    *,
    header: Any = None,
    dtype: DTypeLike | None = None,
    descrip: str | None = None,
    flush: bool = True,
    strategy: int = ANYTHING,
) -> Path:
    """Write an array as a NIfTI-1 image.

    Parameters
    ----------
    path : str or os.PathLike
        A name that ends in ``.nii`` or ``.nii.gz``.
    data : (x, y, z) or (x, y, z, t) array
        The values, stored as they are: slope 1, intercept 0.
    affine : (4, 4) array
        Voxel indices to millimetres.
    header : nibabel header, optional
        Template for units, voxel sizes, TR, sform and qform; see `make_header`.
    dtype : dtype, optional
        The type on disk; that of `data` (uint8 for a mask) where left out. Values are rounded
        to an integer type, and refused if they do not fit it.
    descrip : str, optional
        Up to 79 bytes of description.
    flush : bool
        As `atomic_writer` has it.
    strategy : int
        As `gzip_writer` has it.

    Raises
    ------
    ImageError
        If the image cannot be written, or not without turning into other numbers.
    """
    array = np.asanyarray(data)
    if array.ndim not in (3, 4) or array.size == 0:
        raise ImageError(f"{path}: an image must have 3 or 4 axes, none empty; got {array.shape}")
    if dtype is None:
        dtype = np.uint8 if array.dtype == np.bool_ else array.dtype
    new = make_header(array.shape, dtype, affine, header=header, descrip=descrip)
    return write_image_blocks(path, new, _blocks_of(array), flush=flush, strategy=strategy)


def _blocks_of(array: AnyArray) -> Iterator[AnyArray]:
    if array.ndim == 3:
        array = array[..., np.newaxis]
    step = max(1, _BLOCK_BYTES // max(array[..., :1].nbytes, 1))
    for start in range(0, array.shape[3], step):
        yield array[..., start : start + step]


def write_image_blocks(
    path: str | os.PathLike[str],
    header: Any,
    blocks: Iterable[AnyArray],
    *,
    flush: bool = True,
    strategy: int = ANYTHING,
) -> Path:
    """Write a NIfTI-1 image whose volumes arrive in pieces.

    Memory holds one block and its copy in the type on disk.

    Parameters
    ----------
    path : str or os.PathLike
        As in `write_image`.
    header : nibabel.Nifti1Header
        The whole image's header, as `make_header` builds it: shape and type on disk count.
    blocks : iterable of (x, y, z, t_block) or (x, y, z) array
        The image's volumes in order. Together they must have the header's shape.
    flush : bool
        As `atomic_writer` has it.
    strategy : int
        As `gzip_writer` has it.

    Raises
    ------
    ImageError
        If the blocks do not make up the header's shape, or the file cannot be written. Nothing
        is left behind, and an existing file stays as it was.
    """
    target = Path(path)
    if not target.name.endswith(SUFFIXES):
        raise ImageError(f"{target}: the name of an image must end in {' or '.join(SUFFIXES)}")
    head = header.copy()
    head["vox_offset"] = head.single_vox_offset
    head["scl_slope"], head["scl_inter"] = 1, 0
    head.extensions.clear()
    shape = tuple(int(size) for size in head.get_data_shape())
    n_volumes = 1 if len(shape) == 3 else shape[3]
    if target.name.endswith(".gz"):
        writer = gzip_writer(target, flush=flush, strategy=strategy)
    else:
        writer = atomic_writer(target, flush=flush)
    written = 0
    with writer as file:
        head.write_to(file)
        for block in blocks:
            volumes = block[..., np.newaxis] if block.ndim == 3 else block
            if volumes.ndim != 4 or volumes.shape[:3] != shape[:3]:
                raise ImageError(f"{target}: block of shape {block.shape} in an image of {shape}")
            written += volumes.shape[3]
            # NIfTI runs fastest along x: the transpose, in C order, is the file's order.
            file.write(_to_disk(volumes.T, head.get_data_dtype(), target).data)
        if written != n_volumes:
            raise ImageError(f"{target}: the header says {n_volumes} volumes, but got {written}")
    return target


def _to_disk(values: AnyArray, dtype: np.dtype[Any], target: Path) -> AnyArray:
    """Cast to the type on disk; refuse what a plain cast would turn into other numbers."""
    if np.issubdtype(values.dtype, np.complexfloating) and dtype.kind != "c":
        raise ImageError(f"{target}: complex values cannot be written as {dtype}")
    if dtype.kind in "iu" and values.size and not np.can_cast(values.dtype, dtype):
        values = np.rint(values) if values.dtype.kind == "f" else values
        low, high, limits = values.min(), values.max(), np.iinfo(dtype)
        # As Python integers: 2**31 - 1 is 2**31 in float32, and passes its own test there.
        finite = np.isfinite(low) and np.isfinite(high)
        if not (finite and int(low) >= limits.min and int(high) <= limits.max):
            raise ImageError(
                f"{target}: values from {low} to {high} do not fit {dtype}"
                f" ({limits.min} to {limits.max}); give another dtype"
            )
    with np.errstate(over="raise"):
        try:
            return np.ascontiguousarray(values, dtype=dtype)
        except FloatingPointError as error:
            raise ImageError(f"{target}: values do not fit {dtype}; give another dtype") from error
