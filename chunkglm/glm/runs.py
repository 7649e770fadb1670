"""Runs: opened as lazy arrays, converted to stores."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from chunkglm._types import RunSource
from chunkglm.errors import DesignError, MemoryLimitError, StoreError
from chunkglm.io import open_nifti, open_source
from chunkglm.lazy.runs import is_untouched, run_array
from chunkglm.plan import BUFFER_BYTES, BUFFERS_ALIVE, PROCESS_BYTES, store_chunks
from chunkglm.schema import SPACE, TIME

_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def open_run(path: str | Path, *, t_r: float | None = None) -> xr.DataArray:
    """Open a run as a lazy array; nothing but the header is read.

    Parameters
    ----------
    path : str or Path
        A store made by `convert`, or a ``.nii``, ``.nii.gz`` or ``.hdr``/``.img`` file. A
        compressed file can only be read forwards: `fit` reads it once, slices are for looking.
    t_r : float, optional
        Repetition time in seconds, in place of the header's.

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
    source = open_source(path)
    t_r = check_t_r(t_r) if t_r is not None else source.t_r
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


def check_t_r(t_r: float) -> float:
    """Repetition time as a float, or an error that says what it was."""
    try:
        value = float(t_r)
    except (TypeError, ValueError):
        value = -1.0
    if not (np.isfinite(value) and value > 0):
        msg = f"t_r must be a positive number of seconds, but got {t_r!r}"
        raise DesignError(msg)
    return value


def untouched_source(run: xr.DataArray) -> RunSource | None:
    """Return the source of a run that is still as `open_run` gave it, else None."""
    path = run.attrs.get("source")
    if not isinstance(path, str) or run.dims != (*SPACE, TIME):
        return None
    try:
        source = open_source(path)
    except (ValueError, OSError):
        return None
    return source if is_untouched(run.data, source) else None


def convert(
    source: str | Path,
    store: str | Path,
    *,
    overwrite: bool = False,
    memory_limit: str | int | None = None,
    progress: bool = True,
) -> str:
    """Convert a NIfTI run to a chunked zarr store, in one streaming pass.

    The store keeps the file's integers and its header, has time contiguous, and appears under its
    name only when it is whole.

    Parameters
    ----------
    source : str or Path
        ``.nii``, ``.nii.gz`` or ``.hdr``/``.img``.
    store : str or Path
        Folder to make, by custom ending in ``.zarr``.
    overwrite : bool
        Replace a store of that name, once the new one is whole.
    memory_limit : str or int, optional
        Ceiling such as ``"500MB"``, or bytes; the blocks of time are made to fit.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    str
        The store's path.

    Raises
    ------
    ImageError
        When the source is truncated, corrupt or not NIfTI; nothing is left behind.
    StoreError
        When something is in the way.
    MemoryLimitError
        When not even one volume at a time fits the limit.
    """
    # zarr takes 0.3 s to import, and only stores need it.
    from chunkglm.io.store import check_destination, write_store

    path = Path(store)
    if path.resolve() == Path(source).resolve():
        msg = f"{path}: source and store are the same; choose another name for the store"
        raise StoreError(msg)
    check_destination(path, overwrite=overwrite)
    run = open_nifti(source)
    buffer = BUFFER_BYTES
    if memory_limit is not None:
        limit = parse_bytes(memory_limit)
        buffer = min(buffer, (limit - PROCESS_BYTES) // BUFFERS_ALIVE)
        if buffer < run.volume_bytes:
            needed = PROCESS_BYTES + BUFFERS_ALIVE * run.volume_bytes
            msg = f"{source}: converting needs {needed} bytes of memory, but the limit is {limit}"
            raise MemoryLimitError(msg)
    chunks = store_chunks(run.shape, run.dtype.itemsize, buffer)
    with _progress_bar(run.shape[3], f"convert {Path(source).name}", progress) as bar:
        write_store(run, path, chunks, overwrite=overwrite, advance=bar.update)
    return str(path)


def _progress_bar(total: int, label: str, show: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=label, unit="vol", disable=not show, leave=False)


def parse_bytes(amount: str | int) -> int:
    """Read an amount of memory such as ``"500MB"``, ``"1.5 GB"`` or a number of bytes."""
    text = str(amount).strip().lower().removesuffix("b").removesuffix("i").strip()
    factor = _UNITS.get(text[-1:], 1)
    try:
        return int(float(text[:-1] if factor > 1 else text) * factor)
    except (ValueError, OverflowError):
        msg = f'memory_limit must be bytes or an amount such as "500MB", but got {amount!r}'
        raise MemoryLimitError(msg) from None
