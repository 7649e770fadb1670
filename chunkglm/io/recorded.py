"""What is written to a store is noted, and its manifest comes last."""

import contextlib
import json
from collections.abc import Callable, Iterator
from math import ceil, prod
from typing import Any

from zarr.abc.store import Store

from chunkglm.errors import StoreError
from chunkglm.io.manifest import KEYS, Manifest, RecordingStore, get, list_keys, put

ARRAY = "/zarr.json"


@contextlib.contextmanager
def recorded(
    target: Store,
    written: Callable[[str], None] | None = None,
    linked: Callable[[str], None] | None = None,
) -> Iterator[RecordingStore]:
    """Note what is written, and write the manifest last.

    Parameters
    ----------
    target : Store
    written : callable, optional
        Told each key that has been written.
    linked : callable, optional
        Told each key that is a second name of a file on the disk.

    Yields
    ------
    RecordingStore
        To write to.

    Raises
    ------
    StoreError
        When a part has not arrived, though nothing failed.
    """
    store = RecordingStore(target, written=written, linked=linked)
    yield store
    there = set(list_keys(target))
    # Other processes that wrote blocks noted them on their side: what they wrote is read back.
    for key in there - set(store.entries):
        data = get(target, key)
        if data is not None:
            store.note(key, data)
    _check_complete(target, set(store.entries) - there, there)
    key = next(key for key in KEYS if f"{key.partition('/')[0]}/zarr.json" in store.entries)
    put(target, key, Manifest(store.entries, key).to_bytes())


def _check_complete(target: Store, lost: set[str], there: set[str]) -> None:
    """Refuse to finish a store of which a part is not there, though nothing failed."""
    for key in there:
        node = json.loads(get(target, key) or b"{}") if key.endswith(ARRAY) else {}
        if node.get("node_type") != "array":
            continue
        name = key.removesuffix(ARRAY)
        chunks = f"{name}/c/", f"{name}/c."
        found = sum(one == f"{name}/c" or one.startswith(chunks) for one in there)
        n_chunks = _n_chunks(node)
        if found != n_chunks:
            lost.add(f"{n_chunks - found} of {n_chunks} chunks of {name}")
    if lost:
        msg = (
            f"{target}: {', '.join(sorted(lost))} did not arrive; every process that computes must "
            "be able to write there: choose a place that all of them share"
        )
        raise StoreError(msg)


def _n_chunks(array: dict[str, Any]) -> int:
    steps = array["chunk_grid"]["configuration"]["chunk_shape"]
    return prod(ceil(n / step) for n, step in zip(array["shape"], steps, strict=True))
