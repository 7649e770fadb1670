"""Blocks that lie side by side are the whole; others are put together."""

from typing import Any

import dask.array as da
import numpy as np
import pytest

from chunkglm.lazy.graph import Field, array_of_held, arrays_of_tasks, joined

WHOLE = np.arange(24.0).reshape(2, 12).copy()
CUTS = {"whole": [(0, 12)], "side by side": [(0, 5), (5, 12)], "a part": [(0, 5), (5, 9)],
        "another order": [(6, 12), (0, 6)], "twice": [(0, 6), (0, 6)]}  # fmt: skip


def _cut(first: int, stop: int) -> dict[str, Any]:
    return {"values": WHOLE[:, first:stop]}


def lazy_array(name: str) -> da.Array:
    tasks = {(name, i): (_cut, *edges) for i, edges in enumerate(CUTS[name])}
    sizes = tuple(b - a for a, b in CUTS[name])
    fields = {"values": Field((2,), "f8")}
    return arrays_of_tasks(name, tasks, list(tasks), fields, (sizes,), [])["values"]


@pytest.mark.parametrize("name", list(CUTS))
def test_joined__is_what_dask_makes_of_it(name: str) -> None:
    array = lazy_array(name)
    (found,) = joined([array]).compute()
    np.testing.assert_array_equal(found, array.compute())
    assert (found is WHOLE) == (name in ("whole", "side by side"))


def test_joined__takes_several_arrays_held_or_not() -> None:
    held = array_of_held(WHOLE * 2, (4, 8))
    first, second = joined([held, lazy_array("a part")]).compute()
    np.testing.assert_array_equal(first, WHOLE * 2)
    np.testing.assert_array_equal(second, WHOLE[:, :9])
