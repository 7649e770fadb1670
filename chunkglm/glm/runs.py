"""Runs: opened as lazy arrays, converted to stores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from chunkglm._types import RunSource
from chunkglm.design import check_repetition_time
from chunkglm.errors import ImageError, MemoryLimitError, StoreError
from chunkglm.io import open_nifti, open_source
from chunkglm.io.files import is_url
from chunkglm.io.nifti import NiftiRun
from chunkglm.lazy.progress import bar
from chunkglm.lazy.runs import run_array, source_of
from chunkglm.memory import conversion_bytes
from chunkglm.schema import SPACE, TIME
from chunkglm.sizes import conversion_buffer, store_chunks

_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def open_run(
    path: Any, *, t_r: float | None = None, storage_options: Mapping[str, Any] | None = None
) -> xr.DataArray:
    """Open a run as a lazy array; nothing but the header is read.

    Parameters
    ----------
    path : str, Path or zarr store
        A store made by `convert`, or a ``.nii``, ``.nii.gz`` or ``.hdr``/``.img`` file; local or
        behind a URL that fsspec knows. A compressed file can only be read forwards: `fit` reads it
        once, slices are for looking.
    t_r : float, optional
        Repetition time in seconds, in place of the header's.
    storage_options : mapping, optional
        Passed to fsspec with a URL, such as ``{"anon": True}`` for public data on S3.

    Returns
    -------
    xarray.DataArray
        Named ``bold``, dims (x, y, z, time), values scaled as nibabel's ``dataobj`` gives them.
        Coordinates are voxel indices and seconds (volumes, where no repetition time is known).
        ``attrs["affine"]`` is the voxel-to-mm matrix as a 4 x 4 list.

    Raises
    ------
    ImageError, StoreError
        When the file cannot be read; the message names it and the cause.
    DesignError
        When `t_r` is not a positive number.
    """
    source = open_source(path, storage_options)
    t_r = check_repetition_time(t_r) if t_r is not None else source.t_r
    times = np.arange(source.shape[3]) * (t_r or 1.0)
    attrs: dict[str, Any] = {"affine": [list(row) for row in source.affine]}
    if t_r:
        attrs["repetition_time"] = t_r
    attrs["source"] = source.path
    coords: dict[str, Any] = {d: np.arange(n) for d, n in zip(SPACE, source.shape, strict=False)}
    coords[TIME] = (TIME, times, {"units": "seconds" if t_r else "volumes"})
    return xr.DataArray(
        run_array(source), dims=(*SPACE, TIME), coords=coords, name="bold", attrs=attrs
    )


def untouched_source(run: xr.DataArray) -> RunSource | None:
    """Return the source of a run that is still as `open_run` gave it, else None."""
    # Only dask arrays have chunks; `data` of any other may be read at once by being looked at.
    if run.chunks is None or run.dims != (*SPACE, TIME):
        return None
    return source_of(run.data)


def check_run(run: Any) -> str:
    """Return what messages call a run; refuse what is none."""
    if not isinstance(run, xr.DataArray):
        msg = f"run must be a path or a DataArray from open_run, but got {type(run).__name__}"
        raise ImageError(msg)
    label = str(run.attrs.get("source", run.name or "run"))
    if set(run.dims) != {*SPACE, TIME}:
        msg = f"{label}: a run must have dims ('x', 'y', 'z', 'time'), but got {run.dims}"
        raise ImageError(msg)
    if run.dtype.kind not in "iufb":
        msg = f"{label}: a run must hold integer or float numbers, but holds {run.dtype}"
        raise ImageError(msg)
    return label


def convert(
    source: str | Path,
    store: Any,
    *,
    overwrite: bool = False,
    memory_limit: str | int | None = None,
    progress: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> str:
    """Convert a NIfTI run to a chunked zarr store, in one streaming pass.

    The store keeps the file's integers and its header, has time contiguous, and appears under its
    name only when it is whole, with a manifest of every chunk's checksum.

    Parameters
    ----------
    source : str or Path
        ``.nii``, ``.nii.gz`` or ``.hdr``/``.img``, or a URL of the first two.
    store : str, Path or zarr store
        Folder to make, by custom ending in ``.zarr``, or a URL such as ``s3://bucket/run.zarr``, or
        any zarr store object.
    overwrite : bool
        Replace a store of that name, once the new one is whole.
    memory_limit : str or int, optional
        Ceiling such as ``"500MB"``, or bytes; the blocks of time are made to fit.
    progress : bool
        Show a progress bar, on standard error or in the output of a notebook's cell.
    storage_options : mapping, optional
        Passed to fsspec with URLs.

    Returns
    -------
    str
        The store's path.

    Raises
    ------
    ImageError
        When the source is truncated, corrupt or not NIfTI; nothing is left behind.
    StoreError
        When something is in the way, another process is writing it, or there is no room.
    MemoryLimitError
        When not even one volume at a time fits the limit.
    """
    # zarr takes 0.3 s to import, and only stores need it.
    from chunkglm.io.commit import check_destination
    from chunkglm.io.place import place_of
    from chunkglm.io.store import write_store

    place = place_of(store, storage_options if is_url(store) else None)
    local = place.folder is not None and place.folder.resolve() == Path(source).resolve()
    if local or (place.url is not None and place.url.rstrip("/") == str(source).rstrip("/")):
        msg = f"{place.label}: source and store are the same; choose another name for the store"
        raise StoreError(msg)
    check_destination(place, overwrite=overwrite)
    run = open_nifti(source, storage_options)
    chunks = store_chunks(run.shape, run.dtype.itemsize, _buffer(run, memory_limit))
    with _progress_bar(run, progress) as bar:
        write_store(
            run,
            place,
            chunks,
            overwrite=overwrite,
            advance=lambda n: bar.update(n * run.volume_bytes),
        )
    return place.label


def _buffer(run: NiftiRun, memory_limit: str | int | None) -> int:
    """Bytes of volumes that may be held at once; refused when not even one may."""
    limit = None if memory_limit is None else parse_bytes(memory_limit)
    buffer = conversion_buffer(limit, run.volume_bytes)
    needed = conversion_bytes(buffer, buffer)
    if limit is not None and needed > limit:
        msg = (
            f"{run.path}: converting needs {needed} bytes of memory, but the limit is {limit}; "
            "it holds one volume at a time already"
        )
        raise MemoryLimitError(msg)
    return buffer


def verify(store: Any, *, storage_options: Mapping[str, Any] | None = None) -> list[str]:
    """Read a store whole and compare it with the manifest made when it was written.

    Parameters
    ----------
    store : str, Path or zarr store
        Made by `convert` or `Fit.save`.
    storage_options : mapping, optional
        Passed to fsspec with a URL.

    Returns
    -------
    list of str
        What is wrong, each naming the chunk or the metadata; empty when all is as it was written.

    Raises
    ------
    StoreError
        When there is no store.
    """
    from chunkglm.io.checked import verify_store
    from chunkglm.io.place import place_of

    return verify_store(place_of(store, storage_options))


def export_nifti(
    store: Any,
    path: str | Path,
    *,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> str:
    """Turn a store back into the NIfTI file it was made from.

    Parameters
    ----------
    store : str, Path or zarr store
        Made by `convert`.
    path : str or Path
        ``.nii``, ``.nii.gz``, or ``.img`` (its ``.hdr`` is written beside it).
    overwrite : bool
        Replace a file of that name.
    storage_options : mapping, optional
        Passed to fsspec with a URL.

    Returns
    -------
    str
        The path written. Header, extensions and voxels are the original's, byte for byte; what
        followed the image in the original is not.

    Raises
    ------
    StoreError
        When the store is not complete.
    ImageError
        When the file is in the way or cannot be written.
    """
    from chunkglm.io.export import write_nifti
    from chunkglm.io.place import place_of
    from chunkglm.io.store import open_store

    run = open_store(place_of(store, storage_options))
    return str(write_nifti(run, Path(path), overwrite=overwrite))


def _progress_bar(run: NiftiRun, show: bool) -> Any:
    return bar(
        run.shape[3] * run.volume_bytes,
        f"convert {run.name}",
        unit="B",
        unit_scale=True,
        show=show,
        leave=False,
    )


def parse_bytes(amount: str | int) -> int:
    """Read an amount of memory such as ``"500MB"``, ``"1.5 GB"`` or a number of bytes."""
    text = str(amount).strip().lower().removesuffix("b").removesuffix("i").strip()
    factor = _UNITS.get(text[-1:], 1)
    try:
        return int(float(text[:-1] if factor > 1 else text) * factor)
    except (ValueError, OverflowError):
        msg = f'memory_limit must be bytes or an amount such as "500MB", but got {amount!r}'
        raise MemoryLimitError(msg) from None
