"""Chunks of a store, decoded by whoever reads them; a run's into memory that is used again."""

import sys
from typing import Any

import numpy as np
from numcodecs import blosc
from zarr.codecs import BloscCodec, BytesCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from chunkglm._types import AnyArray
from chunkglm.io.checked import CheckedStore

# Where a blosc frame tells how many bytes it decodes to.
_DECODED_BYTES = slice(4, 8)


class ChunkReader:
    """Reads planes of a range of volumes; what was read before may be overwritten.

    zarr decodes in threads of its own, into new memory each time, and copies from there: 6.3 ms of
    processor time for a chunk of 4 MB, and 90 MB that the C library keeps for those threads (two
    tasks that read). Into one buffer, in the thread that asks, it is 2.0 ms and 4 MB a task.
    """

    def __init__(self, array: Any) -> None:
        self._array = array
        self._plain = _is_plain(array)
        self._chunk = np.empty(array.chunks if self._plain else 0, array.dtype)
        self._joined = np.empty(0, array.dtype)

    def read(self, planes: range, first: int, stop: int) -> AnyArray:
        """Read planes of a range of volumes.

        Parameters
        ----------
        planes : range
        first, stop : int

        Returns
        -------
        (x, y, z, t) array
            Time-contiguous, unscaled.
        """
        if not self._plain:
            return np.asarray(self._array[:, :, planes.start : planes.stop, first:stop])
        times = range(first, stop)
        x, y, *lengths = self._array.chunks
        slabs, blocks = (
            range(wanted.start // n, -(-wanted.stop // n))
            for wanted, n in zip((planes, times), lengths, strict=True)
        )
        if len(slabs) == len(blocks) == 1:
            self._decode(slabs[0], blocks[0])
            return self._chunk[
                :, :, _within(planes, slabs[0], lengths[0]), _within(times, blocks[0], lengths[1])
            ]
        if self._joined.shape[2:] != (len(planes), len(times)):
            self._joined = np.empty((x, y, len(planes), len(times)), self._array.dtype)
        for i in slabs:
            z = _overlap(planes, i, lengths[0])
            for j in blocks:
                t = _overlap(times, j, lengths[1])
                self._decode(i, j)
                self._joined[:, :, _from(planes, z), _from(times, t)] = self._chunk[
                    :, :, _within(z, i, lengths[0]), _within(t, j, lengths[1])
                ]
        return self._joined

    def _decode(self, slab: int, block: int) -> None:
        """Put a chunk into the buffer."""
        _decode(self._array, (0, 0, slab, block), self._chunk)


class SlabReader:
    """Reads slabs of a store's array, a chunk each."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self._plain = _is_blosc(array)

    def __dask_tokenize__(self) -> object:
        """Tell this writing of this store from any other, without reading it."""
        return "SlabReader", self._array.path, self._array.store

    def read(self, number: int) -> AnyArray:
        """Read the slab of that number, one axis less than the array's."""
        if not self._plain:
            return np.asarray(self._array[number])
        out = np.empty(self._array.shape[1:], self._array.dtype)
        _decode(self._array, (number, *(0 for _ in out.shape)), out)
        return out


def read_whole(array: Any) -> AnyArray:
    """Read a small array of a store, in this thread if it is one chunk of a folder."""
    if not _is_blosc(array) or array.chunks != array.shape:
        return np.asarray(array[...])
    out = np.empty(array.shape, array.dtype)
    _decode(array, (0,) * array.ndim, out)
    return out


def _decode(array: Any, index: tuple[int, ...], out: AnyArray) -> None:
    """Put a chunk into memory."""
    name = array.metadata.encode_chunk_key(index)
    key = f"{array.path}/{name}".lstrip("/")
    # The store compares what it finds with its manifest.
    if isinstance(array.store, CheckedStore):
        frame = array.store.read(key)
    else:
        found = sync(array.store.get(key, default_buffer_prototype()))
        frame = None if found is None else found.as_numpy_array().data
    if frame is None:
        raise FileNotFoundError(key)
    n_bytes = int.from_bytes(frame[_DECODED_BYTES].tobytes(), "little")
    if n_bytes != out.nbytes:
        msg = f"{key} holds {n_bytes} bytes and must hold {out.nbytes}"
        raise ValueError(msg)
    blosc.decompress(frame, out)


def _is_plain(array: Any) -> bool:
    """Whether chunks are whole planes, and `_is_blosc`."""
    return _is_blosc(array) and array.chunks[:2] == array.shape[:2]


def _is_blosc(array: Any) -> bool:
    """Whether chunks are numbers in this machine's order, compressed by blosc alone."""
    serializer, compressors = array.serializer, array.compressors
    return bool(
        array.shards is None
        and not array.filters
        and len(compressors) == 1
        and isinstance(compressors[0], BloscCodec)
        and isinstance(serializer, BytesCodec)
        and (array.dtype.itemsize == 1 or getattr(serializer.endian, "value", "") == sys.byteorder)
    )


def _overlap(wanted: range, number: int, length: int) -> range:
    """What is wanted of the chunk of that number."""
    return range(max(wanted.start, number * length), min(wanted.stop, (number + 1) * length))


def _within(part: range, number: int, length: int) -> slice:
    return slice(part.start - number * length, part.stop - number * length)


def _from(whole: range, part: range) -> slice:
    return slice(part.start - whole.start, part.stop - whole.start)
