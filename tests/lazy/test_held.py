"""Arrays in memory, shown as dask arrays."""

import numpy as np

from chunkglm.lazy.graph import array_of_held


def test_array_of_held__is_the_array_itself_and_cannot_be_changed() -> None:
    data = np.arange(30.0).reshape(2, 3, 5)
    found = array_of_held(data, (2, 3))
    assert found.chunks == ((2,), (3,), (2, 3))
    np.testing.assert_array_equal(found.compute(scheduler="sync"), data)
    for block in dict(found.dask).values():
        assert np.shares_memory(block, data)
        assert not block.flags.writeable
    assert data.flags.writeable
