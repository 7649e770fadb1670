"""The next block is made in a thread while the last is used."""

import threading
from collections.abc import Generator, Iterator
from contextvars import copy_context
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")


class _End:
    """Marks the end of the stream, with the error that ended it if one did."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetched(items: Iterator[Item], ahead: int = 1) -> Generator[Item]:
    """Draw items in a thread of their own, while the last is used.

    Parameters
    ----------
    items : iterator
        Used in one other thread only.
    ahead : int
        Items being made or waiting beside the one in use; memory is that of `ahead` + 1. A third
        block was seen to bring no speed.

    Yields
    ------
    Item
        In order. An error in the thread is raised here; closing this generator ends the thread.
    """
    ready: SimpleQueue[Item | _End] = SimpleQueue()
    room = threading.Semaphore(ahead)
    stopped = threading.Event()

    def draw() -> None:
        try:
            while True:
                room.acquire()
                if stopped.is_set():
                    return
                ready.put(next(items))
        except StopIteration:
            ready.put(_End(None))
        except BaseException as caught:
            ready.put(_End(caught))

    # In the context of who asks: what is warned of there is theirs.
    thread = threading.Thread(
        target=copy_context().run, args=(draw,), name="chunkglm-prefetch", daemon=True
    )
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            room.release()
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        room.release()
        thread.join()
