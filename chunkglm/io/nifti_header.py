"""NIfTI headers: read, checked, and told in the words of a run."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from chunkglm.errors import ImageError
from chunkglm.io.files import is_url, open_file
from chunkglm.io.inflate import GZIP_ERRORS, MAGIC, GzipReader

# Deflate cannot expand more than this; a header that claims more lies.
LARGEST_GZIP_RATIO = 1032

# xyzt_units codes for time, in seconds. An unset unit is read as seconds, as other packages do.
SECONDS_PER_UNIT = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6, "unknown": 1.0}

# nibabel reads these too, but a run in one of them would be taken for a plain file here.
_OTHER_COMPRESSIONS = (".bz2", ".zst", ".xz")

_HEADER_ERRORS = (
    ImageFileError, HeaderDataError, WrapStructError, ValueError, OSError, EOFError, OverflowError,
    zlib.error, *GZIP_ERRORS,
)  # fmt: skip

_NIFTI2_BYTES = 540
_PIECE = 1 << 20
LARGEST_HEADER = 1 << 24  # bytes, extensions included, of what is fetched or taken for one
_HEAD = 1 << 16  # bytes of a remote file fetched for its header


@dataclass(frozen=True, slots=True)
class Opened:
    """An image whose header nibabel has read."""

    image: Any
    file: str  # that holds the voxels: another one than the header's in a pair
    compressed: bool
    head: bytes  # of a remote file, its first bytes; each look at it costs a request


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """What a header says of a run's samples."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # byte order included
    offset: int
    slope: float
    intercept: float
    affine: tuple[tuple[float, ...], ...]
    t_r: float | None


def facts_of(image: Any) -> HeaderFacts:
    """Read what nibabel found in a file."""
    proxy = image.dataobj
    return HeaderFacts(
        shape=tuple(int(n) for n in proxy.shape),
        dtype=proxy.dtype,
        offset=int(proxy.offset),
        slope=float(proxy.slope),
        intercept=float(proxy.inter),
        affine=_rows(image.affine),
        t_r=repetition_time(image.header),
    )


def facts_of_bytes(raw: bytes, label: str) -> HeaderFacts:
    """Read a header that lies apart from any image.

    Parameters
    ----------
    raw : bytes
        NIfTI-1 or NIfTI-2, of either byte order; what follows the header is not looked at.
    label : str
        What messages call it.

    Raises
    ------
    ImageError
        When it is not a header that can be read.
    """
    try:
        kind = nib.Nifti2Header if _is_nifti2(raw) else nib.Nifti1Header
        header = kind(raw[: kind.sizeof_hdr], check=False)
        slope, intercept = header.get_slope_inter()
        return HeaderFacts(
            shape=tuple(int(n) for n in header.get_data_shape()),
            dtype=header.get_data_dtype(),
            offset=0,
            slope=1.0 if slope is None else float(slope),
            intercept=0.0 if intercept is None else float(intercept),
            affine=_rows(header.get_best_affine()),
            t_r=repetition_time(header),
        )
    except (*_HEADER_ERRORS, KeyError) as error:
        raise _unreadable(label, error) from error


def _rows(affine: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(v) for v in row) for row in affine)


def _is_nifti2(raw: bytes) -> bool:
    return _NIFTI2_BYTES in (int.from_bytes(raw[:4], order) for order in ("little", "big"))


def _unreadable(label: str, error: Exception) -> ImageError:
    cause = " ".join(str(error).split())
    return ImageError(f"{label}: is not a NIfTI file that can be read ({cause})")


def run_shape(path: str | Path, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return a run's shape, once it is known for one.

    Raises
    ------
    ImageError
        When it is not that of several volumes.
    """
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
    x, y, z, n_scans = shape
    return x, y, z, n_scans


def check_dtype(path: str | Path, dtype: np.dtype[Any]) -> None:
    """Refuse RGB and complex images, which hold no time series."""
    if dtype.kind not in "iufb" or (dtype.kind == "f" and dtype.itemsize > 8):
        msg = f"{path}: voxels must be integers or floats of up to 64 bits, but they are {dtype}"
        raise ImageError(msg)


def load_header(path: str | Path, options: Mapping[str, Any]) -> Opened:
    """Let nibabel read a header.

    Raises
    ------
    ImageError
        When there is none that can be read.
    """
    return _remote(str(path), options) if is_url(path) else _local(Path(path))


def _remote(path: str, options: Mapping[str, Any]) -> Opened:
    """Parse the header of a single-file image from its first bytes."""
    if path.lower().endswith((".hdr", ".img", ".hdr.gz", ".img.gz", *_OTHER_COMPRESSIONS)):
        msg = f"{path}: of URLs only .nii and .nii.gz are read; download it first"
        raise ImageError(msg)
    try:
        with open_file(path, options, ahead=_HEAD) as file:
            head = file.read(len(MAGIC))
            compressed = head == MAGIC
            stream, head = (GzipReader(file, head), b"") if compressed else (file, head)
            head = _filled(stream, head, _NIFTI2_BYTES)
            kind = nib.Nifti2Image if _is_nifti2(head) else nib.Nifti1Image
            header = kind.header_class(head[: kind.header_class.sizeof_hdr], check=False)
            # Up to the image: extensions may be long, and nibabel wants them whole.
            head = _filled(stream, head, int(min(header["vox_offset"], LARGEST_HEADER)))
        image = kind.from_stream(BytesIO(head))
    except ImageError:
        raise
    except _HEADER_ERRORS as error:
        raise _unreadable(path, error) from error
    return Opened(image, path, compressed, head)


def _filled(stream: Any, head: bytes, n_bytes: int) -> bytes:
    """Read on until there are so many bytes, or no more."""
    pieces, missing = [head], n_bytes - len(head)
    while missing > 0 and (piece := stream.read(missing)):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def _local(path: Path) -> Opened:
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
        raise _unreadable(str(path), error) from error
    if not isinstance(image, nib.Nifti1Pair):
        msg = f"{path}: must be a NIfTI image, but is {type(image).__name__}"
        raise ImageError(msg)
    file = Path(image.file_map["image"].filename)
    if not file.exists():
        msg = f"{file}: no such file, though its header {path} is there; a pair needs both"
        raise ImageError(msg)
    return Opened(image, str(file), _is_gzip(file), b"")


def open_binary(
    file: str, options: Mapping[str, Any], *, compressed: bool, forwards: bool = True
) -> Any:
    """Open a file, inflated when it is compressed, which can only be read forwards."""
    opened = open_file(file, options, forwards=forwards or compressed)
    return GzipReader(opened) if compressed else opened


def _is_gzip(file: Path) -> bool:
    """Whether a file begins as gzip files do, whatever it is called."""
    with file.open("rb") as start:
        return start.read(len(MAGIC)) == MAGIC


def raw_header(opened: Opened, options: Mapping[str, Any]) -> bytes:
    """Everything before the image as it lies in the file, or the whole header file of a pair."""
    n_bytes, file, compressed = int(opened.image.dataobj.offset), opened.file, opened.compressed
    if opened.head and n_bytes <= len(opened.head):
        return opened.head[:n_bytes]
    if "header" in opened.image.file_map and opened.image.file_map["header"].filename:
        file = str(opened.image.file_map["header"].filename)
        n_bytes, compressed = LARGEST_GZIP_RATIO * Path(file).stat().st_size, _is_gzip(Path(file))
    pieces = []
    try:
        with open_binary(file, options, compressed=compressed) as start:
            while n_bytes > 0 and (piece := start.read(min(n_bytes, _PIECE))):
                pieces.append(piece)
                n_bytes -= len(piece)
    except GZIP_ERRORS as error:
        msg = f"{file}: the header cannot be read ({error}); the file is truncated or corrupt"
        raise ImageError(msg) from error
    return b"".join(pieces)


def repetition_time(header: Any) -> float | None:
    """Seconds between volumes, or None where the header has none."""
    try:
        unit = header.get_xyzt_units()[1]
    except KeyError:
        unit = "unknown"
    t_r = float(header["pixdim"][4]) * SECONDS_PER_UNIT.get(unit, 1.0)
    return t_r if np.isfinite(t_r) and t_r > 0 else None
