"""A run's store turned back into the NIfTI file it was made from."""

import errno
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import nibabel as nib
import numpy as np

from chunkglm.errors import ImageError
from chunkglm.io.images import atomic_writer, gzip_writer
from chunkglm.io.nifti_header import LARGEST_GZIP_RATIO

if TYPE_CHECKING:
    from chunkglm.io.store import StoreRun

_NIFTI2_BYTES = 540
FULL = (errno.ENOSPC, errno.EDQUOT)


def write_nifti(run: "StoreRun", path: Path, *, overwrite: bool) -> Path:
    """Write header and voxels as they were, one block of time after the other.

    Parameters
    ----------
    run : StoreRun
    path : Path
        ``.nii``, ``.nii.gz``, or ``.img`` with its ``.hdr`` beside it.
    overwrite : bool

    Returns
    -------
    Path

    Raises
    ------
    ImageError
        When the file is in the way, or its name says another kind than the header.
    """
    targets = [path]
    pair = path.suffix == ".img"
    if pair:
        targets.append(path.with_suffix(".hdr"))
    elif not path.name.endswith((".nii", ".nii.gz")):
        msg = f"{path}: the name of an image must end in .nii, .nii.gz or .img"
        raise ImageError(msg)
    was_pair = _magic(run.header).startswith(b"ni")
    if pair != was_pair:
        wanted = ".img" if was_pair else ".nii or .nii.gz"
        msg = (
            f"{path}: the run was {'a pair' if was_pair else 'one file'}; end the name in {wanted}"
        )
        raise ImageError(msg)
    for target in targets:
        _check_target(target, overwrite=overwrite)
    needed = len(run.header) + int(np.prod(run.shape)) * run.dtype.itemsize
    compressed = path.name.endswith(".gz")
    _check_room(path, needed // LARGEST_GZIP_RATIO if compressed else needed)
    try:
        if pair:
            with atomic_writer(targets[1]) as head, atomic_writer(path) as file:
                head.write(run.header)
                _write_voxels(run, file, before=_offset(run.header))
        else:
            with (gzip_writer if compressed else atomic_writer)(path) as file:
                file.write(run.header)
                _write_voxels(run, file, before=0)
    except ImageError as error:
        if getattr(error.__cause__, "errno", None) not in FULL:
            raise
        msg = f"{path}: the disk is full; {_amounts(path, needed)}; free some and run again"
        raise ImageError(msg) from error
    return path


def _write_voxels(run: "StoreRun", file: BinaryIO, *, before: int) -> None:
    file.write(bytes(before))
    dtype = run.dtype.newbyteorder(_byte_order(run.header))
    for _, block in run.blocks(range(run.shape[2]), 1):
        file.write(np.ascontiguousarray(block, dtype=dtype).reshape(-1).view(np.uint8).data)


def _check_target(target: Path, *, overwrite: bool) -> None:
    if target.is_dir():
        msg = f"{target}: is a folder; choose another name"
        raise ImageError(msg)
    if target.exists() and not overwrite:
        msg = f"{target}: exists; pass overwrite=True (--overwrite) to replace it"
        raise ImageError(msg)
    if not target.parent.is_dir():
        msg = f"{target}: the folder {target.parent} does not exist; make it first"
        raise ImageError(msg)


def _check_room(path: Path, least: int) -> None:
    if shutil.disk_usage(path.resolve().parent).free < least:
        msg = (
            f"{path}: there is no room; {_amounts(path, least)}; free some, or choose another disk"
        )
        raise ImageError(msg)


def _amounts(path: Path, needed: int) -> str:
    free = shutil.disk_usage(path.resolve().parent).free
    return f"the file needs up to {needed} bytes and {free} are free"


def _byte_order(header: bytes) -> Literal["<", ">"]:
    sizes = {nib.Nifti1Header.sizeof_hdr, nib.Nifti2Header.sizeof_hdr}
    return "<" if int.from_bytes(header[:4], "little") in sizes else ">"


def _magic(header: bytes) -> bytes:
    is_nifti2 = int.from_bytes(header[:4], "little") == _NIFTI2_BYTES
    is_nifti2 |= int.from_bytes(header[:4], "big") == _NIFTI2_BYTES
    return header[4:8] if is_nifti2 else header[344:348]


def _offset(header: bytes) -> int:
    """Bytes before the first voxel in the image file of a pair."""
    order = _byte_order(header)
    if int.from_bytes(header[:4], "little" if order == "<" else "big") == _NIFTI2_BYTES:
        return int(struct.unpack_from(f"{order}q", header, 168)[0])
    return int(struct.unpack_from(f"{order}f", header, 108)[0])
