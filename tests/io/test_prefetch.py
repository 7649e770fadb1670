"""Drawing items in a thread: order, errors, and an end in every case."""

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkglm.io.prefetch import prefetched


def running() -> int:
    return sum(t.name == "chunkglm-prefetch" for t in threading.enumerate())


@given(items=st.lists(st.integers(), max_size=20), ahead=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_prefetched__keeps_all_items_in_order(items: list[int], ahead: int) -> None:
    assert list(prefetched(iter(items), ahead)) == items
    assert running() == 0


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(3)])
def test_prefetched__raises_the_error_of_the_thread_after_the_items_before_it(
    error: BaseException,
) -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise error

    seen = []
    with pytest.raises(type(error)) as caught:
        seen.extend(prefetched(items()))
    assert caught.value is error
    assert running() == 0
    stream = prefetched(items())
    assert [next(stream), next(stream)] == [1, 2]
    stream.close()


@pytest.mark.parametrize("ahead", [1, 2])
def test_prefetched__draws_no_further_ahead_than_it_may(ahead: int) -> None:
    drawn = []

    def items() -> Iterator[int]:
        for i in range(100):
            drawn.append(i)
            yield i

    stream = prefetched(items(), ahead)
    for used in range(3):
        assert next(stream) == used
        time.sleep(0.1)
        assert len(drawn) == used + 1 + ahead
    stream.close()
    assert running() == 0


def test_prefetched__closing_ends_the_thread_that_waits_for_room() -> None:
    stream = prefetched(iter(range(1000)))
    next(stream)
    time.sleep(0.05)
    start = time.monotonic()
    stream.close()
    assert time.monotonic() - start < 10.0  # it would wait for ever
    assert running() == 0


def test_prefetched__works_in_a_thread_of_its_own() -> None:
    names = set()

    def items() -> Iterator[int]:
        names.add(threading.current_thread().name)
        yield 1

    assert list(prefetched(items())) == [1]
    assert names == {"chunkglm-prefetch"}
