"""How results were made: versions, digests, and names of files that say nothing of a machine."""

import hashlib
import platform
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from chunkglm._types import AnyArray
from chunkglm.glm.records import short_name

_PACKAGES = ("chunkglm", "numpy", "scipy", "xarray", "dask", "zarr", "nibabel", "nilearn")
_PATH = re.compile(r"(?<![\w./:])/(?:[^\s:;,'\"()/]+/)+[^\s:;,'\"()/]+")


def versions() -> dict[str, str]:
    """Versions of what worked on this, by name."""
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"chunkglm": found.pop("chunkglm", ""), **found}


def array_digest(values: AnyArray) -> str:
    """SHA-256 of an array's numbers, as float64 in C order, and of its shape."""
    array = np.ascontiguousarray(values, dtype="<f8")
    return hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest()


def without_places(text: str, known: Iterable[str] = ()) -> str:
    """Shorten paths in a text to what says nothing of the machine they lie on.

    Parameters
    ----------
    text : str
    known : iterable of str
        Paths that may be in it, blanks and all; others are found by their look.

    Examples
    --------
    >>> without_places("/home/me/ds/sub-1/run.nii: is truncated")
    'sub-1/run.nii: is truncated'
    """
    for path in sorted(known, key=len, reverse=True):
        text = text.replace(path, short_name(path))
    return _PATH.sub(lambda found: short_name(found.group()), text)
