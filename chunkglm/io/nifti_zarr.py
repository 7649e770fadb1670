"""Runs in nifti-zarr stores: an OME-Zarr pyramid with a NIfTI header beside it, read at level 0.

The format is that of the nifti-zarr specification, 1.0: arrays (t, c, z, y, x), the finest first in
``multiscales``, and the header's bytes in the array ``nifti``, which counts where the two differ.
It has no checksums: a chunk that was altered, and can be decoded still, is not noticed.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype

from chunkglm._types import AnyArray
from chunkglm.errors import ChunkglmError, ImageError
from chunkglm.io.manifest import get
from chunkglm.io.nifti_header import (
    LARGEST_HEADER,
    HeaderFacts,
    check_dtype,
    facts_of_bytes,
    run_shape,
)
from chunkglm.io.place import Place
from chunkglm.sizes import CHUNK_BYTES

HEADER = "nifti"
_METADATA = ("zarr.json", ".zarray")  # of zarr v3 and v2
_AXES = "tczyx"


@dataclass(frozen=True, slots=True)
class NiftiZarrRun:
    """A run in a nifti-zarr store; no data is held."""

    place: Place
    level: str  # path of the finest array
    axes: str  # of that array, such as "tzyx"
    shape: tuple[int, int, int, int]  # x, y, z, time
    dtype: np.dtype[Any]
    chunks: tuple[int, int, int, int]
    slope: float
    intercept: float
    affine: tuple[tuple[float, ...], ...]
    t_r: float | None  # seconds
    header: bytes = field(repr=False)
    metadata: str = ""  # checksum of what describes the arrays

    @property
    def path(self) -> str:
        """What messages call it."""
        return self.place.label

    @property
    def token(self) -> str:
        """Tells this state of this store from any other, as far as its metadata do."""
        return f"{self.place.label} {self.metadata}"

    @property
    def forward_only(self) -> bool:
        """Any part can be read on its own."""
        return False

    @property
    def plane_unit(self) -> int:
        """Planes that are read together at no extra cost."""
        return self.chunks[2]

    def blocks(self, planes: range, n_volumes: int) -> Iterator[tuple[int, AnyArray]]:
        """Read forwards, in whole chunks of time.

        Parameters
        ----------
        planes : range
            Planes wanted; chunks without any of them are not read.
        n_volumes : int
            Volumes in a block, rounded to whole chunks.

        Yields
        ------
        first : int
            The block's first volume.
        block : (t, z, y, x) array
            Unscaled.
        """
        array = self._array()
        n_scans, chunk = self.shape[3], self.chunks[3]
        step = chunk * max(1, n_volumes // chunk)
        for first in range(0, n_scans, step):
            yield first, self._part(array, planes, first, min(first + step, n_scans))

    def read(self, planes: range, first: int, stop: int) -> AnyArray:
        """Read planes of a range of volumes as (t, z, y, x), unscaled."""
        return self._part(self._array(), planes, first, stop)

    def _array(self) -> Any:
        array, metadata = _level(_open(self.place), self.place.label, self.level)
        if metadata != self.metadata:
            msg = f"{self.path}: was written anew since it was opened; open it again"
            raise ImageError(msg)
        return array

    def _part(self, array: Any, planes: range, first: int, stop: int) -> AnyArray:
        wanted = {"t": slice(first, stop), "z": slice(planes.start, planes.stop), "c": 0}
        key = tuple(wanted.get(axis, slice(None)) for axis in self.axes)
        try:
            return np.asarray(array[key])
        except ChunkglmError:
            raise
        except Exception as error:  # codecs raise what their libraries do
            msg = f"{self.path}: a chunk of {self.level} cannot be read ({_line(error)})"
            raise ImageError(msg) from error


def is_nifti_zarr(place: Place) -> bool:
    """Whether there is a header's array where a nifti-zarr store has it."""
    store = place.open(read_only=True)
    return any(get(store, f"{HEADER}/{name}") is not None for name in _METADATA)


def open_nifti_zarr(place: Place) -> NiftiZarrRun:
    """Read and check what a nifti-zarr store says of its run.

    Parameters
    ----------
    place : Place

    Returns
    -------
    NiftiZarrRun

    Raises
    ------
    ImageError
        When it is not a run's, or its header and its arrays disagree.
    """
    label = place.label
    group = _open(place)
    level, axes = _finest(group, label)
    array, metadata = _level(group, label, level)
    header = _header_bytes(group, label)
    facts = facts_of_bytes(header, f"{label}: the array {HEADER}")
    check_dtype(label, facts.dtype)
    check_dtype(label, array.dtype)
    sizes = _sizes(array.shape, axes, label)
    shape = run_shape(label, sizes)
    _compare(facts, shape, array.dtype, label)
    _warn_of_absent_chunks(array, label)
    return NiftiZarrRun(
        place=place,
        level=level,
        axes=axes,
        shape=shape,
        dtype=array.dtype,
        chunks=_chunks(array, axes, shape),
        slope=facts.slope,
        intercept=facts.intercept,
        affine=facts.affine,
        t_r=facts.t_r,
        header=header,
        metadata=metadata,
    )


def _open(place: Place) -> zarr.Group:
    store = place.open(read_only=True)
    try:
        return zarr.open_group(store, mode="r", use_consolidated=False)
    except ChunkglmError:
        raise
    except Exception as error:  # zarr's errors have no base in common
        msg = f"{place.label}: is not a zarr group that can be read ({_line(error)})"
        raise ImageError(msg) from error


def _finest(group: zarr.Group, label: str) -> tuple[str, str]:
    """Path and axes of the first, finest array of the pyramid."""
    attrs: Any = dict(group.attrs)
    try:
        found = attrs.get("ome", attrs)["multiscales"][0]
        level = str(found["datasets"][0]["path"])
        axes = "".join(str(axis["name"]) for axis in found["axes"]).lower()
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        msg = f"{label}: has no usable multiscales metadata ({_line(error)}); it is no nifti-zarr"
        raise ImageError(msg) from error
    if sorted(axes) != sorted(set(axes)) or not set("zyx") <= set(axes) <= set(_AXES):
        msg = f"{label}: axes must be t, z, y and x, and may have c, but are {', '.join(axes)}"
        raise ImageError(msg)
    if axes != "".join(axis for axis in _AXES if axis in axes):
        msg = f"{label}: axes must be in the order t, c, z, y, x, but are {', '.join(axes)}"
        raise ImageError(msg)
    return level, axes


def _level(group: zarr.Group, label: str, level: str) -> tuple[Any, str]:
    """Return an array, and a checksum of its metadata and of the header beside it."""
    try:
        array, header = group[level], group[HEADER]
        if not (isinstance(array, zarr.Array) and isinstance(header, zarr.Array)):
            raise TypeError("a group is where an array should be")
    except ChunkglmError:
        raise
    except Exception as error:
        msg = f"{label}: has no arrays {level} and {HEADER} that can be read ({_line(error)})"
        raise ImageError(msg) from error
    told = [a.metadata.to_buffer_dict(default_buffer_prototype()) for a in (array, header)]
    text = json.dumps([{k: v.to_bytes().decode() for k, v in t.items()} for t in told])
    checksum = hashlib.sha256(text.encode() + _stored_header(group.store)).hexdigest()
    return array, checksum


def _stored_header(store: Store) -> bytes:
    """Bytes of the header's only chunk, however its key is spelt."""
    found = (get(store, f"{HEADER}/{key}") for key in ("c/0", "0", "c.0"))
    return next((data for data in found if data is not None), b"")


def _header_bytes(group: zarr.Group, label: str) -> bytes:
    array: Any = group[HEADER]
    if array.nbytes > LARGEST_HEADER or array.ndim > 1:
        msg = f"{label}: the array {HEADER} must be a header's bytes, but has {array.nbytes}"
        raise ImageError(msg)
    try:
        return np.asarray(array[...]).tobytes()
    except ChunkglmError:
        raise
    except Exception as error:
        msg = f"{label}: the array {HEADER} cannot be read ({_line(error)})"
        raise ImageError(msg) from error


def _sizes(found: tuple[int, ...], axes: str, label: str) -> tuple[int, ...]:
    """Sizes of x, y, z, time and, where there are several, channels."""
    if len(found) != len(axes):
        msg = f"{label}: has axes {', '.join(axes)}, but its finest array has shape {found}"
        raise ImageError(msg)
    sizes = dict(zip(axes, found, strict=True))
    return tuple(sizes[axis] for axis in "xyztc" if axis in sizes)


def _compare(
    facts: HeaderFacts, shape: tuple[int, int, int, int], dtype: np.dtype[Any], label: str
) -> None:
    """Refuse a header that was made for other data."""
    claimed = run_shape(label, facts.shape)
    if claimed != shape:
        msg = f"{label}: its header is for shape {claimed}, but its finest array has {shape}"
        raise ImageError(msg)
    if facts.dtype.newbyteorder("=") != dtype.newbyteorder("="):
        msg = f"{label}: its header is for {facts.dtype}, but its finest array holds {dtype}"
        raise ImageError(msg)


def _chunks(array: Any, axes: str, shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Whole planes of a chunk's depth, for as many of its lengths of time as make up a block."""
    x, y, z, n_scans = shape
    sizes = dict(zip(axes, array.chunks, strict=True))
    depth, length = min(z, sizes["z"]), min(n_scans, sizes["t"])
    bytes_at_once = x * y * depth * length * array.dtype.itemsize
    return x, y, depth, min(n_scans, length * max(1, CHUNK_BYTES // bytes_at_once))


def _warn_of_absent_chunks(array: Any, label: str) -> None:
    """Tell of chunks that are not there: never written, being all alike, or lost since."""
    if not array.store.supports_listing:
        return
    # What lies under one key: a chunk, or a shard of several.
    unit = array.shards or array.chunks
    n_keys = prod(-(-n // u) for n, u in zip(array.shape, unit, strict=True))
    absent = n_keys - array.nchunks_initialized * prod(array.chunks) // prod(unit)
    if absent:
        msg = (
            f"{label}: {absent} of {n_keys} chunks are absent and are read as "
            f"{array.fill_value}; the format does not tell whether they were lost"
        )
        warnings.warn(msg, UserWarning, stacklevel=2)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
