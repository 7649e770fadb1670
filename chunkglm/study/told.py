"""Warnings of the thread that asks for them, where others work beside it."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

_lock = threading.Lock()
_found: ContextVar[list["Told"] | None] = ContextVar("told", default=None)
_depth = 0
_caught: Any = None
_shown_before: Any = None


class Told(NamedTuple):
    """A warning."""

    text: str
    category: type[Warning]


@contextmanager
def told_here() -> Iterator[list[Told]]:
    """Gather what this thread, or one that works for it, warns of; others' go where they went.

    `warnings.catch_warnings` is for one thread: filters and handler are the process's, and of two
    that overlap the last to leave puts back what the first had made. So the first to enter makes
    them here, and the last to leave takes them back.
    """
    global _depth, _caught, _shown_before
    with _lock:
        _depth += 1
        if _depth == 1:
            _shown_before = warnings.showwarning
            _caught = warnings.catch_warnings()
            _caught.__enter__()
            warnings.simplefilter("always")
            warnings.showwarning = _sort
    found: list[Told] = []
    before = _found.set(found)
    try:
        yield found
    finally:
        _found.reset(before)
        with _lock:
            _depth -= 1
            if _depth == 0:
                _caught.__exit__(None, None, None)


def _sort(message: Any, category: type[Warning], *where: Any, **options: Any) -> None:
    found = _found.get()
    if found is None:
        _shown_before(message, category, *where, **options)
    else:
        found.append(Told(" ".join(str(message).split()), category))
