"""Which chunkglm this is: its version, and its code where versions do not tell."""

import hashlib
from functools import cache
from importlib.metadata import version as _installed
from pathlib import Path


@cache
def version() -> str:
    """Return the version as installed; finding it takes half a millisecond, so it is kept."""
    return _installed("chunkglm")


@cache
def code_digest() -> str:
    """Return a hash of the package's own files; another after any change of them.

    Between two releases the version stays the same, and what the code does may not. Reading all of
    it takes 10 ms.
    """
    found = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        found.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]
