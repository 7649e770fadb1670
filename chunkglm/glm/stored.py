"""Datasets as stores of the same kind as runs: complete or absent, every key checked when read."""

from collections.abc import Collection, Mapping
from typing import Any

import dask
import numpy as np
import xarray as xr

FORMAT = 2  # 1 held sums of the data; moments are of residuals now


def write_dataset(
    dataset: xr.Dataset,
    path: Any,
    overwrite: bool,
    storage_options: Mapping[str, Any] | None,
) -> str:
    """Compute and store a Dataset; it is there only when it is whole.

    Parameters
    ----------
    dataset : Dataset
        Its ``attrs["holds"]`` says what it is.
    path : str, Path or zarr store
    overwrite : bool
    storage_options : mapping or None

    Returns
    -------
    str
        The store's path.
    """
    # zarr takes 0.3 s to import, and only stores need it.
    from chunkglm.io.commit import check_destination, committed
    from chunkglm.io.place import place_of

    place = place_of(path, storage_options)
    check_destination(place, overwrite=overwrite)
    marked = dataset.assign_attrs(chunkglm_format=FORMAT)
    with committed(place, overwrite=overwrite, needed=dataset.nbytes) as store:
        marked.to_zarr(
            store,
            zarr_format=3,
            consolidated=False,
            encoding=_encoding(dataset),
            # A chunk that is not there is then always a chunk that was lost.
            write_empty_chunks=True,
        )
    return place.label


def _encoding(dataset: xr.Dataset) -> dict[Any, Any]:
    from zarr.codecs import BloscCodec

    # Sums of noise hardly shrink: shuffled lz4 costs little and takes what there is.
    compressors = [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")]
    return {
        name: {"compressors": compressors}
        for name, variable in dataset.variables.items()
        if variable.dtype.kind in "fi" and variable.ndim and variable.size
    }


def read_dataset(
    path: Any, holds: str, storage_options: Mapping[str, Any] | None
) -> tuple[xr.Dataset, str]:
    """Open a stored Dataset, lazily.

    Parameters
    ----------
    path : str, Path or zarr store
    holds : str
        What it must be.
    storage_options : mapping or None

    Returns
    -------
    Dataset, str
        And what messages call it.

    Raises
    ------
    StoreError
        When it is not there, not complete, or holds something else.
    """
    from chunkglm.io.checked import check_kind, damage_told, open_checked
    from chunkglm.io.place import place_of

    place = place_of(path, storage_options)
    group = open_checked(place)
    check_kind(group, place.label, holds, FORMAT)
    with damage_told(place.label):
        return xr.open_zarr(group.store, consolidated=False, chunks={}), place.label


def with_small_read(dataset: xr.Dataset, lazy: Collection[str]) -> xr.Dataset:
    """Read all variables but some into memory, at once and here: a cluster has nothing to gain.

    One by one, a dozen of them take 70 ms, together 20.

    Parameters
    ----------
    dataset : Dataset
    lazy : collection of str
        Those that stay as they are.

    Returns
    -------
    Dataset
    """
    with dask.config.set(scheduler="synchronous"):
        read = dataset.drop_vars(list(lazy)).compute()
    return read.assign({name: dataset[name].variable for name in lazy})


def small(dataset: xr.Dataset, name: str) -> Any:
    """Read a small variable into memory, here: a cluster has nothing to gain from it."""
    with dask.config.set(scheduler="synchronous"):
        return np.asarray(dataset[name].to_numpy())
