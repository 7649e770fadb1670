"""Fits as stores of the same kind as runs: complete or absent, every key checked when read.

Three arrays hold all there is, since each costs a millisecond or two to open: ``moments``, a chunk
for each slab of voxels, ``mask``, and ``model``, the numbers of the design and its factor one after
the other, of which the attribute ``arrays`` tells names and shapes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr

from chunkglm._types import AnyArray, BoolArray
from chunkglm.schema import SPACE

# 1 held sums of the data, and 2 each moment, and each part of the factor, in an array of its own.
FORMAT = 3


class Stored(NamedTuple):
    """What a store holds of a fit."""

    moments: Any  # (slab, number, voxel): a dask array to be written, a reader of its slabs if read
    mask: BoolArray  # (x, y, z)
    model: Mapping[str, AnyArray]  # in float64, which holds indices and yes or no exactly
    attrs: Mapping[str, Any]  # ``holds`` says what it is


def write_stored(
    stored: Stored,
    path: Any,
    overwrite: bool,
    storage_options: Mapping[str, Any] | None,
) -> str:
    """Compute and store a fit; it is there only when it is whole.

    Parameters
    ----------
    stored : Stored
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
    dataset = _dataset_of(stored)
    with committed(place, overwrite=overwrite, needed=dataset.nbytes) as store:
        dataset.to_zarr(
            store,
            zarr_format=3,
            consolidated=False,
            encoding=_encoding(dataset),
            # A chunk that is not there is then always a chunk that was lost.
            write_empty_chunks=True,
        )
    return place.label


def _dataset_of(stored: Stored) -> xr.Dataset:
    moments: da.Array = stored.moments
    numbers = [np.asarray(values, dtype=np.float64).reshape(-1) for values in stored.model.values()]
    return xr.Dataset(
        {
            "moments": (("slab", "number", "voxel"), moments),
            "mask": (SPACE, stored.mask.astype(np.int8)),
            "model": (("entry",), np.concatenate(numbers)),
        },
        attrs={
            **stored.attrs,
            "arrays": {name: list(np.shape(values)) for name, values in stored.model.items()},
            "chunkglm_format": FORMAT,
        },
    )


def _encoding(dataset: xr.Dataset) -> dict[Any, Any]:
    from zarr.codecs import BloscCodec

    # Sums of noise hardly shrink: shuffled lz4 costs little and takes what there is.
    compressors = [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")]
    # In one chunk, which zarr would cut if they are large; those of moments are dask's.
    whole = {name: {"chunks": dataset[name].shape} for name in ("mask", "model")}
    return {name: {"compressors": compressors, **whole.get(str(name), {})} for name in dataset}


def read_stored(
    path: Any, holds: str, storage_options: Mapping[str, Any] | None
) -> tuple[Stored, str]:
    """Open a stored fit; its moments are not read.

    Parameters
    ----------
    path : str, Path or zarr store
    holds : str
        What it must be.
    storage_options : mapping or None

    Returns
    -------
    Stored, str
        And what messages call it.

    Raises
    ------
    StoreError
        When it is not there, not complete, or holds something else.
    """
    from chunkglm.io.checked import check_kind, damage_told, open_checked
    from chunkglm.io.chunks import SlabReader, read_whole
    from chunkglm.io.place import place_of

    place = place_of(path, storage_options)
    group = open_checked(place)
    attrs = check_kind(group, place.label, holds, FORMAT)
    with damage_told(place.label):
        arrays: Any = group
        mask, numbers = read_whole(arrays["mask"]) != 0, read_whole(arrays["model"])
        model, first = {}, 0
        for name, shape in attrs["arrays"].items():
            stop = first + int(np.prod(shape, dtype=int))
            model[name] = numbers[first:stop].reshape(shape)
            first = stop
        return Stored(SlabReader(arrays["moments"]), mask, model, attrs), place.label
