"""Reading of ``.npz`` and ``.npy`` files; nothing in them is ever unpickled."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile

from chunkglm._types import AnyArray
from chunkglm.design._messages import list_names, quote
from chunkglm.design._tables import check_array
from chunkglm.design._text import MAX_BYTES, read_bytes
from chunkglm.errors import DesignError

_MATRIX = "X"
_NAME_ARRAYS = ("names", "columns", "conditions")


def read_numpy(path: Path) -> tuple[AnyArray, tuple[str, ...]]:
    """Read the design in a ``.npz`` or ``.npy`` file.

    Parameters
    ----------
    path : Path
        A file of one array, or of several with one called ``X``.

    Returns
    -------
    values : (T, k) array
        The design, of any real type.
    names : tuple of up to k str
        The names the file has for the first columns, often for all.
    """
    data = read_bytes(path)
    if not data.startswith((b"PK", b"\x93NUMPY")):
        raise DesignError(
            f"{path} is not a NumPy file (and a pickle is never loaded); make it with np.savez "
            "or np.save"
        )
    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        if not isinstance(loaded, NpzFile):
            return check_array(np.asanyarray(loaded), str(path)), ()
        with loaded:
            if _MATRIX not in loaded.files:
                raise DesignError(
                    f"{path} has no array {_MATRIX!r} but {list_names(loaded.files) or 'nothing'}; "
                    f"save the design as np.savez(path, {_MATRIX}=..., names=...)"
                )
            values = check_array(_member(loaded, _MATRIX, path), str(path))
            return values, _names_of(loaded, values.shape[1], path)
    except DesignError:
        raise
    except Exception as error:
        # A flipped bit surfaces as what zipfile, zlib, struct, numpy or Python's tokenizer
        # (numpy reads headers with it) happens to raise: there is no shorter list.
        if "Object arrays" in str(error):
            raise DesignError(
                f"{path} holds Python objects (a hidden pickle), which are never loaded; save "
                "the design as numbers and its names as text"
            ) from error
        raise DesignError(
            f"{path} is corrupt or cut off ({quote(error)}); write it again"
        ) from error


def _member(loaded: "NpzFile[Any]", name: str, path: Path) -> AnyArray:
    """Read one array, once its size is known to be that of a table."""
    # A compressed megabyte of zeros can unpack to a gigabyte; the directory tells before.
    listed = loaded.zip.infolist() if loaded.zip is not None else []
    entries = [entry for entry in listed if entry.filename == f"{name}.npy"]
    for entry in entries:
        if entry.file_size > MAX_BYTES:
            raise DesignError(
                f"{path}: array {name!r} has {entry.file_size} bytes, but a table has at most "
                f"{MAX_BYTES}; pass the design of one run"
            )
    return np.asanyarray(loaded[name])


def _names_of(loaded: "NpzFile[Any]", n_columns: int, path: Path) -> tuple[str, ...]:
    """Return the names for all columns when an array has them, else those for the first."""
    found: dict[str, tuple[str, ...]] = {}
    for key in _NAME_ARRAYS:
        if key in loaded.files:
            array = _member(loaded, key, path)
            if array.ndim == 1 and array.dtype.kind in "US":
                found[key] = tuple(
                    cell.decode() if isinstance(cell, bytes) else str(cell)
                    for cell in array.tolist()
                )
    for names in found.values():
        if len(names) == n_columns:
            return names
    for key, names in found.items():
        if len(names) > n_columns:
            raise DesignError(
                f"{path}: its array {key!r} names {len(names)} columns, but {_MATRIX} has "
                f"{n_columns}; save one name per column"
            )
    return next(iter(found.values()), ())
