"""Pages of their own: zeros, large or small, that are gone when they are let go."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkglm.kernels import pages


@pytest.mark.parametrize("shape", [(0,), (3, 5), (2, 300, 400), (pages.SMALLEST // 8,)])
@pytest.mark.parametrize("dtype", ["f8", ">i2", "f4"])
def test_own_pages__are_zeros_that_can_be_written(shape: tuple[int, ...], dtype: Any) -> None:
    found = pages.own_pages(shape, dtype)
    assert (found.shape, found.dtype) == (shape, np.dtype(dtype))
    assert found.flags.c_contiguous
    assert not found.any()
    found[...] = 3
    assert (found == 3).all()


def test_side_by_side__are_zeros_that_do_not_overlap() -> None:
    wanted: dict[str, tuple[tuple[int, ...], Any]] = {
        "status": ((3, 5), "i1"),
        "none": ((0, 4), "f8"),
        "large": ((2, 400, 400), "f8"),
        "effect": ((2, 300, 300), "f8"),
        "one": ((), "f4"),
    }
    found = pages.side_by_side(wanted)
    assert {name: (a.shape, a.dtype) for name, a in found.items()} == {
        name: (shape, np.dtype(dtype)) for name, (shape, dtype) in wanted.items()
    }
    assert all(a.flags.c_contiguous and a.flags.aligned and not a.any() for a in found.values())
    for i, a in enumerate(found.values()):
        a[...] = i + 1
    assert all((a == i + 1).all() for i, a in enumerate(found.values()))
    # Small ones are kept together, and a large one by itself.
    assert found["effect"].base is found["status"].base
    assert found["large"].base is not found["status"].base


def test_own_pages__are_unmapped_with_the_last_view() -> None:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs /proc")

    def mapped() -> int:
        return int(statm.read_text().split()[0]) * 4096

    before, size = mapped(), 64 << 20
    whole = pages.own_pages((size // 8,))
    part = whole[:10]
    del whole
    assert mapped() - before >= size
    del part
    assert mapped() - before < size // 2
