"""Whether threads may help the one that works, or it is to do all by itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_alone: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let this thread do what others would do beside it.

    For those who have as many runs at work as there are cores. Threads beside each bring nothing
    then; every one is another block in memory, and turns to take at the interpreter.
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def has_one_thread() -> bool:
    """Whether this thread is to do all by itself."""
    return _alone.get()
