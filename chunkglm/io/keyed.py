"""Stores behind URLs, and store objects: the manifest comes last, and makes them complete."""

import contextlib
import secrets
from collections.abc import Iterator

from zarr.abc.store import Store
from zarr.core.sync import sync

from chunkglm.errors import StoreError
from chunkglm.io.claim import Claim, claimed
from chunkglm.io.files import reaching
from chunkglm.io.folder import ROOT, exists, no_store
from chunkglm.io.manifest import KEYS, RecordingStore, get, list_keys, put
from chunkglm.io.place import Place
from chunkglm.io.recorded import recorded


@contextlib.contextmanager
def keyed_committed(place: Place, *, overwrite: bool) -> Iterator[RecordingStore]:
    """Write a store where there is no renaming; see `committed`."""
    target = place.open(read_only=False)
    if place.url is None or not place.has_siblings:
        there = _check_keys_there(target, place, overwrite=overwrite)
        beside = _beside if there and place.url is not None else _directly
        with beside(place, target, None) as store:
            yield store
        return
    with claimed(place) as claim:
        with reaching(place.label, StoreError):
            _clear_litter(place, target, claim)
        if _check_keys_there(target, place, overwrite=overwrite):
            beside = _beside
        else:
            beside = _directly
            with reaching(place.label, StoreError):
                claim.begin()
        with beside(place, target, claim) as store:
            yield store


def _clear_litter(place: Place, target: Store, claim: Claim) -> None:
    """Remove what a writer that was killed left: beside the store, or begun in its place."""
    for url in place.siblings(f".{place.name}.", ".partial"):
        Place(url, url=url, options=place.options).remove()
    if claim.inherited and not set(list_keys(target)) & set(KEYS):
        _clear(place, target)


def _check_keys_there(target: Store, place: Place, *, overwrite: bool) -> bool:
    """Whether there is a store to replace; anything else in the way is refused."""
    there = set(list_keys(target))
    if not there:
        return False
    if ROOT not in there:
        raise StoreError(no_store(place.label))
    if overwrite:
        return True
    if there & set(KEYS):
        raise StoreError(exists(place.label))
    msg = (
        f"{place.label}: holds a store that is not complete; unless another process is writing it, "
        "pass overwrite=True (--overwrite) to replace it"
    )
    raise StoreError(msg)


@contextlib.contextmanager
def _directly(place: Place, target: Store, claim: Claim | None) -> Iterator[RecordingStore]:
    """Write where the store will be; until its manifest is there it is refused as incomplete."""
    _clear(place, target)
    try:
        with recorded(target) as store:
            yield store
            if claim is not None:
                claim.check()
    except BaseException:
        # What lies there is another's once it has taken over.
        if claim is None or not claim.lost():
            _clear(place, target)
        raise


def _clear(place: Place, target: Store) -> None:
    # The manifest first: without it the rest is refused as incomplete, with it a new one opens.
    for key in KEYS:
        sync(target.delete(key))
    if place.url is not None:
        # Many keys at once, where the file system can; zarr's own clear() leaves some behind.
        place.remove()
    for key in list_keys(target):
        sync(target.delete(key))


@contextlib.contextmanager
def _beside(place: Place, target: Store, claim: Claim | None) -> Iterator[RecordingStore]:
    """Write beside, and copy when it is whole: there is no renaming behind a URL."""
    apart = place.beside(f".{place.name}.{secrets.token_hex(4)}.partial")
    source = apart.open(read_only=False)
    try:
        with recorded(source) as store:
            yield store
        if claim is not None:
            claim.check()
        _clear(place, target)
        # The root first, so that a copy cut short is known for a store, and may be replaced.
        for key in sorted(list_keys(source), key=lambda k: (k in KEYS, k != ROOT)):
            data = get(source, key)
            assert data is not None  # noqa: S101 - it was listed
            put(target, key, data)
    finally:
        apart.remove()
