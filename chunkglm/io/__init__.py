"""Files and stores: one module per format, behind one small protocol."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chunkglm._types import RunSource
from chunkglm.io.files import is_url
from chunkglm.io.nifti import open_nifti

# Files that tell a zarr group, of version 3 and 2.
_GROUPS = ("zarr.json", ".zgroup")


def open_source(path: Any, storage_options: Mapping[str, Any] | None = None) -> RunSource:
    """Open a run's store, a nifti-zarr store or a NIfTI file, by what is there.

    Parameters
    ----------
    path : str, Path or zarr store
        Local, or a URL that fsspec knows; a store's name ends in ``.zarr`` where it is a URL.
    storage_options : mapping, optional
        Passed to fsspec with a URL.

    Returns
    -------
    RunSource
    """
    if isinstance(path, (str, Path)):
        named = str(path).rstrip("/").endswith(".zarr")
        if not named and (is_url(path) or not any((Path(path) / g).exists() for g in _GROUPS)):
            return open_nifti(path, storage_options)
    # zarr takes 0.3 s to import, and runs read straight from NIfTI do not need it.
    from chunkglm.io.nifti_zarr import is_nifti_zarr, open_nifti_zarr
    from chunkglm.io.place import place_of
    from chunkglm.io.store import open_store

    place = place_of(path, storage_options)
    return open_nifti_zarr(place) if is_nifti_zarr(place) else open_store(place)


__all__ = ["open_nifti", "open_source"]
