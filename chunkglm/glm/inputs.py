"""Designs and masks behind URLs: fetched while they are read, and called by their URLs."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from chunkglm.errors import ChunkglmError
from chunkglm.io.files import is_url
from chunkglm.io.transfer import fetched_file

Read = TypeVar("Read")


def read_here(
    load: Callable[[Any], Read],
    thing: Any,
    options: Mapping[str, Any] | None,
    kind: type[ChunkglmError],
) -> Read:
    """Read what a URL names through a copy of it; anything else as it is.

    Parameters
    ----------
    load : callable
        Reads a path, whole: the copy is gone afterwards.
    thing : path, URL or anything else that `load` takes
    options : mapping or None
        Passed to fsspec with a URL.
    kind : type
        Of the error raised when the URL cannot be read.

    Returns
    -------
    What `load` returns. Its errors and warnings name the URL, not the copy.
    """
    if not (isinstance(thing, (str, Path)) and is_url(thing)):
        return load(thing)
    url = str(thing)
    with fetched_file(url, options or {}, kind) as copy, warnings.catch_warnings(record=True) as w:
        warnings.simplefilter("always")
        try:
            found = load(copy)
        except ChunkglmError as error:
            raise type(error)(str(error).replace(str(copy), url)) from error
    for told in w:
        warnings.warn(str(told.message).replace(str(copy), url), told.category, stacklevel=4)
    return found
