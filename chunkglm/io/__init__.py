"""Files and stores: one module per format, behind one small protocol."""

from pathlib import Path

from chunkglm._types import RunSource
from chunkglm.io.nifti import open_nifti


def open_source(path: str | Path) -> RunSource:
    """Open a run's store, or a NIfTI file, by what is there."""
    if (Path(path) / "zarr.json").exists() or str(path).rstrip("/").endswith(".zarr"):
        # zarr takes 0.3 s to import, and runs read straight from NIfTI do not need it.
        from chunkglm.io.store import open_store

        return open_store(path)
    return open_nifti(path)


__all__ = ["open_nifti", "open_source"]
