"""The next block is made in a thread while the last is used."""

import queue
import threading
from collections.abc import Generator, Iterator
from contextvars import copy_context
from typing import TypeVar

Item = TypeVar("Item")


class _End:
    """Marks the end of the stream, with the error that ended it if one did."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetched(items: Iterator[Item], depth: int = 1) -> Generator[Item]:
    """Draw items in a thread of their own, at most `depth` finished ones waiting.

    Parameters
    ----------
    items : iterator
        Used in one other thread only.
    depth : int
        Items kept ready; memory is that of `depth` + 2 items.

    Yields
    ------
    Item
        In order. An error in the thread is raised here; closing this generator ends the thread.
    """
    ready: queue.Queue[Item | _End] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Item | _End) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def draw() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                if not put(item):
                    break
        except BaseException as caught:
            error = caught
        put(_End(error))

    # In the context of who asks: what is warned of there is theirs.
    thread = threading.Thread(
        target=copy_context().run, args=(draw,), name="chunkglm-prefetch", daemon=True
    )
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        thread.join()
