"""A store's chunks made and stored as zarr would, each in one go: turned, compressed, written."""

from typing import Any

import numpy as np
from numcodecs.blosc import Blosc
from zarr.codecs import BloscCodec

from chunkglm._types import AnyArray
from chunkglm.io.manifest import put
from chunkglm.kernels.voxels import time_last

# Bit-shuffled lz4 on time-contiguous int16: 2.3-5.7x smaller than raw and decoded at 1-3 GB/s,
# where zarr's default reaches 1.6x and 0.8 GB/s.
_NAME, _LEVEL = "lz4", 5


def compressor(dtype: np.dtype[Any]) -> BloscCodec:
    """What a store's metadata say of the compression."""
    return BloscCodec(cname=_NAME, clevel=_LEVEL, shuffle="bitshuffle", typesize=dtype.itemsize)


class ChunkWriter:
    """Writes whole chunks of an array from blocks of volumes, from any number of threads.

    zarr's own way to a chunk copies it three times and crosses four threads, which together take
    longer than the compression.
    """

    def __init__(self, array: Any) -> None:
        self._array = array  # zarr's, (x, y, z, time), its chunks whole in x and y
        # A codec that knows no type takes that of what it is given.
        self._codec = Blosc(cname=_NAME, clevel=_LEVEL, shuffle=Blosc.BITSHUFFLE)

    def write(self, block: AnyArray, plane: int, volume: int) -> None:
        """Write one chunk.

        Parameters
        ----------
        block : (t, z, y, x) array
            All of the chunk that lies inside the array.
        plane, volume : int
            Where it begins.
        """
        chunk = time_last(block)
        _, _, n_planes, n_volumes = self._array.chunks
        missing = n_planes - chunk.shape[2], n_volumes - chunk.shape[3]
        if any(missing):
            # At an array's ends chunks are as large as everywhere, zeros beyond.
            chunk = np.pad(chunk, ((0, 0), (0, 0), (0, missing[0]), (0, missing[1])))
        place = (0, 0, plane // n_planes, volume // n_volumes)
        key = f"{self._array.path}/{self._array.metadata.encode_chunk_key(place)}"
        put(self._array.store, key, self._codec.encode(chunk))
