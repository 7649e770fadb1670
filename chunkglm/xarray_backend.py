"""NIfTI runs through xarray's own door: ``xr.open_dataset("bold.nii.gz", engine="nifti")``."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

from chunkglm._types import AnyArray, IntArray, RunSource
from chunkglm.errors import ImageError
from chunkglm.sizes import even_blocks

# xarray loads every engine the first time it opens anything by name, a netCDF file too. So what
# costs (dask and nibabel, half a second) is imported by the methods that need it.

_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img")


class NiftiBackendEntrypoint(BackendEntrypoint):
    """The engine ``"nifti"`` of `xarray.open_dataset`."""

    description = "Open NIfTI runs (.nii, .nii.gz, .hdr/.img; x, y, z, time) lazily with chunkglm"

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        t_r: float | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> xr.Dataset:
        """Open a run as a Dataset; nothing but the header is read.

        Parameters
        ----------
        filename_or_obj : str or path
            A ``.nii``, ``.nii.gz`` or ``.hdr``/``.img`` file, four-dimensional; or a URL of the
            first two, such as ``s3://bucket/bold.nii.gz``.
        drop_variables : str or iterable of str, optional
            Variables or coordinates to leave out.
        t_r : float, optional
            Repetition time in seconds, in place of the header's.
        storage_options : mapping, optional
            Passed to fsspec with a URL.

        Returns
        -------
        xarray.Dataset
            With the variable ``bold``, (x, y, z, time), its coordinates and attributes those of
            `chunkglm.open_run`. With ``chunks={}`` its chunks too.

        Raises
        ------
        ImageError
            When the file cannot be read or is no run; the message names it and the cause.
        DesignError
            When `t_r` is not a positive number.

        Notes
        -----
        A compressed file can only be read forwards: every look at it, and so every chunk, starts
        at its beginning. `chunkglm.fit` passes once over a run from `chunkglm.open_run`, or a
        path; over one from here it reads chunk by chunk.
        """
        from chunkglm.glm.runs import open_run
        from chunkglm.io.nifti import open_nifti
        from chunkglm.lazy.runs import scaled_dtype

        path = _path(filename_or_obj)
        source = open_nifti(path, storage_options)
        # What it is called has one home; the header is read twice for that, its data not once.
        run = open_run(path, t_r=t_r, storage_options=storage_options)
        data = indexing.LazilyIndexedArray(RunArray(source, scaled_dtype(source)))
        chunks = dict(zip(run.dims, source.chunks, strict=True))
        bold = xr.Variable(run.dims, data, run.attrs, {"preferred_chunks": chunks})
        dataset = xr.Dataset({run.name: bold}, coords=run.coords)
        dropped = [drop_variables] if isinstance(drop_variables, str) else drop_variables or ()
        return dataset.drop_vars(dropped, errors="ignore")

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether a path has a NIfTI file's name; the file is not looked at."""
        if not isinstance(filename_or_obj, (str, os.PathLike)):
            return False
        return str(os.fspath(filename_or_obj)).lower().endswith(_SUFFIXES)


class RunArray(BackendArray):
    """A run's scaled values, read when they are indexed; it holds no data and no open file.

    Parameters
    ----------
    source : RunSource
        Opens its file anew at each read: so threads share nothing, and it can be sent anywhere.
    dtype : dtype
        Of the scaled values.
    """

    def __init__(self, source: RunSource, dtype: np.dtype[Any]) -> None:
        self.source = source
        self.shape = source.shape
        self.dtype = dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> AnyArray:
        """Read what a key selects."""
        # xarray turns every falling slice around, and stumbles over one that is empty.
        key = type(key)(
            tuple(
                slice(0) if isinstance(k, slice) and not range(n)[k] else k
                for n, k in zip(self.shape, key.tuple, strict=True)
            )
        )
        read: AnyArray = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )
        return read

    def _read(self, key: tuple[int | slice | IntArray, ...]) -> AnyArray:
        from chunkglm.lazy.runs import scaled

        x, y, z, times = (
            np.atleast_1d(np.arange(n)[k]) for n, k in zip(self.shape, key, strict=True)
        )
        out = np.empty((times.size, z.size, y.size, x.size), self.dtype)
        if out.size:
            planes = range(int(z.min()), int(z.max()) + 1)
            for first, block in _blocks(self.source, planes, np.unique(times)):
                here = np.flatnonzero((times >= first) & (times < first + len(block)))
                for axis, wanted in enumerate((times[here] - first, z - planes.start, y, x)):
                    block = block[(slice(None),) * axis + (_selector(wanted),)]
                out[here] = scaled(block, self.source)
        # A single index drops its dimension; the ellipsis keeps an array where it drops all.
        drops = (0 if not isinstance(k, slice) and np.ndim(k) == 0 else slice(None) for k in key)
        return out.T[(*drops, ...)]


def _blocks(source: RunSource, planes: range, volumes: IntArray) -> Iterator[tuple[int, AnyArray]]:
    """Read volumes in blocks of a chunk's length at most, by the way that reads less.

    Parameters
    ----------
    source : RunSource
    planes : range
    volumes : array of int
        Rising, without duplicates.

    Yields
    ------
    first : int
        The block's first volume.
    block : (t, z, y, x) array
        In the file's dtype, unscaled. Every volume asked for is in one block, others may be too.
    """
    stop, length = int(volumes[-1]) + 1, source.chunks[3]
    pieces = [
        range(stretch[0] + part.start, stretch[0] + part.stop)
        for stretch in np.split(volumes, np.flatnonzero(np.diff(volumes) > 1) + 1)
        for part in even_blocks(len(stretch), length)
    ]
    # In volumes: where all that comes before has to be read too, one pass for several pieces.
    if not source.forward_only or sum(p.stop for p in pieces) <= stop:
        for piece in pieces:
            yield int(piece.start), source.read(planes, int(piece.start), int(piece.stop))
        return
    for first, block in source.blocks(planes, length):
        yield first, block
        if first + len(block) >= stop:
            return


def _selector(index: IntArray) -> slice | IntArray:
    """Indices as a slice where they are evenly spaced: it takes a view, an array takes a copy."""
    step = int(index[1] - index[0]) if index.size > 1 else 1
    if index.size and step > 0 and (np.diff(index) == step).all():
        return slice(int(index[0]), int(index[-1]) + 1, step)
    return index


def _path(filename_or_obj: Any) -> str | Path:
    from chunkglm.io.files import is_url

    if not isinstance(filename_or_obj, (str, os.PathLike)):
        kind = type(filename_or_obj).__name__
        msg = f"engine 'nifti' opens files by their path, but got {kind}"
        raise ImageError(msg)
    name = str(os.fspath(filename_or_obj))
    if is_url(name):
        return name
    return Path(name).expanduser()
