"""A store is written beside its place and put there when it is whole: complete, or not there."""

import contextlib
from collections.abc import Iterator

from chunkglm.io.folder import check_destination, folder_committed
from chunkglm.io.keyed import keyed_committed
from chunkglm.io.manifest import RecordingStore
from chunkglm.io.place import Place


@contextlib.contextmanager
def committed(place: Place, *, overwrite: bool, needed: int) -> Iterator[RecordingStore]:
    """Write a store; it is there, whole, after the block and only then.

    Parameters
    ----------
    place : Place
    overwrite : bool
        Replace what is there. A folder's old content stays whole until the new one is; behind a
        URL the old content is removed once the new one lies whole beside it; a store object has no
        beside, its old content goes first.
    needed : int
        Bytes the store will take at most.

    Yields
    ------
    RecordingStore
        To write to.

    Raises
    ------
    StoreError
        When something is in the way, another process is writing, or there is no room.
    """
    if place.folder is not None:
        committing = folder_committed(place, place.folder, overwrite=overwrite, needed=needed)
    else:
        committing = keyed_committed(place, overwrite=overwrite)
    with committing as store:
        yield store


__all__ = ["check_destination", "committed"]
