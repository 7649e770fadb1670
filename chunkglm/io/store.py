"""A run as a chunked zarr group: integers kept, time contiguous, complete or absent."""

import base64
import hashlib
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from threading import Semaphore
from typing import Any

import numpy as np
import zarr

from chunkglm._types import AnyArray
from chunkglm.errors import StoreError
from chunkglm.io.checked import RUN, check_kind, damage_told, one_line, open_checked
from chunkglm.io.chunks import ChunkReader
from chunkglm.io.commit import committed
from chunkglm.io.encode import ChunkWriter, compressor
from chunkglm.io.nifti import NiftiRun
from chunkglm.io.place import Place

FORMAT = 1
BOLD = "bold"
DIMS = ("x", "y", "z", "time")

# Chunks turned and compressed at once, and blocks of which they may be: so that neither who reads
# nor who writes waits for the other at each.
WRITERS = 2
BLOCKS_WRITTEN = 2


@dataclass(frozen=True, slots=True)
class StoreRun:
    """A run in a store; no data is held."""

    place: Place
    shape: tuple[int, int, int, int]  # x, y, z, time
    dtype: np.dtype[Any]
    chunks: tuple[int, int, int, int]
    slope: float
    intercept: float
    affine: tuple[tuple[float, ...], ...]
    t_r: float | None  # seconds
    header: bytes = field(repr=False)  # of the NIfTI file it was made from
    written: str = ""  # identifies this writing of the store

    @property
    def path(self) -> str:
        """What messages call it."""
        return self.place.label

    @property
    def token(self) -> str:
        """Tells this writing of this store from any other."""
        return f"{self.place.label} {self.written}"

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
            A transposed view of time-contiguous data, unscaled; the next overwrites it.
        """
        reader = ChunkReader(self._array())
        n_scans, chunk = self.shape[3], self.chunks[3]
        step = chunk * max(1, n_volumes // chunk)
        for first in range(0, n_scans, step):
            stop = min(first + step, n_scans)
            yield first, _read(reader, self.path, planes, first, stop)

    def read(self, planes: range, first: int, stop: int) -> AnyArray:
        """Read planes of a range of volumes as (t, z, y, x), unscaled."""
        return _read(ChunkReader(self._array()), self.path, planes, first, stop)

    def _array(self) -> Any:
        group = open_checked(self.place)
        if group.attrs.get("written") != self.written:
            msg = f"{self.path}: was written anew since it was opened; open it again"
            raise StoreError(msg)
        return group[BOLD]


def _read(reader: ChunkReader, label: str, planes: range, first: int, stop: int) -> AnyArray:
    try:
        return reader.read(planes, first, stop).T
    except StoreError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        msg = f"{label}: a chunk cannot be read ({one_line(error)}); convert the run again"
        raise StoreError(msg) from error


def open_store(place: Place) -> StoreRun:
    """Read and check what a run's store says of itself.

    Parameters
    ----------
    place : Place

    Returns
    -------
    StoreRun

    Raises
    ------
    StoreError
        When it is incomplete or not a run's store.
    """
    group = open_checked(place)
    attrs = check_kind(group, place.label, RUN, FORMAT)
    with damage_told(place.label):
        t_r, array = attrs["repetition_time"], _bold(group)
        return StoreRun(
            place=place,
            shape=array.shape,
            dtype=array.dtype,
            chunks=array.chunks,
            slope=float(array.attrs.get("scale_factor", 1.0)),
            intercept=float(array.attrs.get("add_offset", 0.0)),
            affine=tuple(tuple(float(v) for v in row) for row in attrs["affine"]),
            t_r=None if t_r is None else float(t_r),
            header=base64.b64decode(str(attrs["nifti_header"]), validate=True),
            written=str(attrs["written"]),
        )


def _bold(group: zarr.Group) -> Any:
    array: Any = group[BOLD]
    if len(array.shape) != len(DIMS):
        msg = f"{BOLD} must have {len(DIMS)} dimensions, but has {len(array.shape)}"
        raise ValueError(msg)
    return array


def write_store(
    run: NiftiRun,
    place: Place,
    chunks: tuple[int, int, int, int],
    *,
    overwrite: bool,
    advance: Callable[[int], None],
) -> None:
    """Convert a run in one pass; the store is there only when it is whole.

    Parameters
    ----------
    run : NiftiRun
    place : Place
        Where the store will be.
    chunks : tuple of four ints
        From `sizes.store_chunks`; one block of time is held at once.
    overwrite : bool
        Replace a store that is there, once the new one is whole.
    advance : callable
        Told the volumes written after each block.

    Raises
    ------
    StoreError
        When something is in the way, or there is no room.
    ImageError
        When the run cannot be read to its end; nothing is left behind.
    """
    needed = run.volume_bytes * run.shape[3]
    with committed(place, overwrite=overwrite, needed=needed) as store:
        group = zarr.create_group(store, zarr_format=3, attributes=_attributes(run))
        array = _create_bold(group, run, chunks)
        digest = hashlib.sha256()
        blocks = run.blocks(
            range(run.shape[2]), chunks[3], even=False, digest=digest, lasting=BLOCKS_WRITTEN
        )
        with closing(blocks) as stream:
            _write_blocks(ChunkWriter(store, array), stream, run, chunks[2], advance)
        _write_times(group, run)
        group.update_attributes({"source": {**_source(run), "sha256": digest.hexdigest()}})


def _write_blocks(
    writer: ChunkWriter,
    blocks: Iterator[tuple[int, AnyArray]],
    run: NiftiRun,
    n_planes: int,
    advance: Callable[[int], None],
) -> None:
    """Write the chunks of all blocks, in slabs of planes."""
    # Decompression takes as long as all the rest and a core to itself: with two writers on two
    # cores it was held up, and one of them then waited for it (1.38 s for 423 MB, and 1.2). At its
    # end its core is free for the last two blocks.
    cores = (os.cpu_count() or 1) - run.compressed
    free = Semaphore(max(1, min(WRITERS, cores)))

    def write(block: AnyArray, z: int, first: int) -> None:
        with free:
            writer.write(block[:, z : z + n_planes], z, first)

    begun: deque[tuple[int, list[Future[None]]]] = deque()

    def finish() -> None:
        n_volumes, slabs = begun.popleft()
        for slab in slabs:
            slab.result()
        advance(n_volumes)

    with ThreadPoolExecutor(WRITERS, "chunkglm-write") as threads:
        for first, block in blocks:
            if run.compressed and first + len(block) == run.shape[3]:
                free.release()
            slabs = range(0, run.shape[2], n_planes)
            begun.append((len(block), [threads.submit(write, block, z, first) for z in slabs]))
            if len(begun) == BLOCKS_WRITTEN:
                finish()
        while begun:
            finish()


def _create_bold(group: zarr.Group, run: NiftiRun, chunks: tuple[int, int, int, int]) -> Any:
    return group.create_array(
        BOLD,
        shape=run.shape,
        chunks=chunks,
        dtype=run.dtype.newbyteorder("="),
        compressors=compressor(run.dtype),
        dimension_names=DIMS,
        fill_value=0,
        # A chunk that is not there is then always a chunk that was lost.
        config={"write_empty_chunks": True},
        # As CF and xarray read them; left out where they do nothing: integers stay integers.
        attributes={}
        if (run.slope, run.intercept) == (1.0, 0.0)
        else {"scale_factor": run.slope, "add_offset": run.intercept},
    )


def _write_times(group: zarr.Group, run: NiftiRun) -> None:
    n_scans = run.shape[3]
    array = group.create_array(
        "time",
        shape=(n_scans,),
        dtype=np.float64,
        dimension_names=("time",),
        attributes={"units": "seconds" if run.t_r else "volumes"},
    )
    array[:] = np.arange(n_scans) * (run.t_r or 1.0)


def _attributes(run: NiftiRun) -> dict[str, Any]:
    return {
        "chunkglm_format": FORMAT,
        "holds": RUN,
        "affine": [list(row) for row in run.affine],
        "repetition_time": run.t_r,
        "nifti_header": base64.b64encode(run.header).decode("ascii"),
        "source": _source(run),
        "written": secrets.token_hex(16),
    }


def _source(run: NiftiRun) -> dict[str, Any]:
    """What tells the file that holds the voxels from any other."""
    return {"name": run.name, "size": run.size, "modified": run.modified}
