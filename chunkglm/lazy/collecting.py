"""Series collected until they are worth adding to the sums, by two threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import numpy as np

from chunkglm._types import AnyArray
from chunkglm.kernels.factor import ShiftedBasis
from chunkglm.kernels.moments import Moments, Provisional, add_block, finish
from chunkglm.kernels.voxels import VoxelSelection, is_view
from chunkglm.sizes import summed_volumes

# Threads that smooth and add up beside the one that decompresses. Of a run of 91 x 109 x 91 both
# take twice as long as decompression; more threads would wait for it.
THREADS = 2

# Samples of a volume from which a second thread is worth waking. Of small volumes, products are so
# short that threads wait for the interpreter: with two, 64 x 64 x 30 took a sixth longer.
SAMPLES_FOR_TWO = 300_000


def parts_of_pass(selection: VoxelSelection) -> int:
    """Into how many parts the work on a block is cut: it follows from the run, not the machine."""
    volume = len(selection.planes) * selection.shape[0] * selection.shape[1]
    return THREADS if volume >= SAMPLES_FOR_TWO else 1


class Sums:
    """Moments to which blocks are added, in ranges of voxels that know nothing of each other.

    The ranges are the same wherever this runs, and so is every bit of what comes out.
    """

    def __init__(self, moments: Moments, basis: ShiftedBasis, n_parts: int) -> None:
        n_voxels = int(moments.total.size)
        length = -(-n_voxels // n_parts)
        self.basis = basis
        self._ranges = [slice(a, min(a + length, n_voxels)) for a in range(0, n_voxels, length)]
        self._moments = [moments.of_voxels(part) for part in self._ranges]
        self._about: list[Provisional | None] = [None] * len(self._ranges)

    def add(self, series: AnyArray, first_volume: int, threads: "Threads") -> None:
        """Add a block (t, V) of time, the next one."""

        def add(i: int) -> None:
            self._about[i] = add_block(
                self._moments[i], series[:, self._ranges[i]], self.basis, first_volume,
                self._about[i],
            )  # fmt: skip

        threads.each(add, len(self._ranges))

    def finish(self) -> None:
        """Put the moments about the fit; all blocks were added."""
        for moments, about in zip(self._moments, self._about, strict=True):
            finish(moments, self.basis, about)


class Threads:
    """The caller's thread, and those beside it."""

    def __init__(self, n: int) -> None:
        self._pool = ThreadPoolExecutor(n - 1, "chunkglm-pass") if n > 1 else None

    def each(self, work: Callable[[int], None], n: int) -> None:
        """Call ``work(i)`` for each i below n, one a thread."""
        if self._pool is None:
            for i in range(n):
                work(i)
            return
        # In the context of who asks, as to warnings and numpy's errors.
        beside = [self._pool.submit(copy_context().run, work, i) for i in range(1, n)]
        try:
            work(0)
        finally:
            for future in beside:
                future.result()

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


class Collector:
    """Takes series out of blocks of volumes, and adds them to the sums when there are enough."""

    def __init__(
        self, sums: Sums, selection: VoxelSelection, n_scans: int, n_read: int, dtype: Any
    ) -> None:
        self._sums, self._selection, self._n_scans = sums, selection, n_scans
        smoother = selection.smoother
        self._length = summed_volumes(n_read, n_scans, sums.basis.rank, sums.basis.n_lags)
        # One buffer for all blocks: fresh memory costs more to touch than the gathering itself.
        shape = (self._length, selection.n_voxels)
        self._series = np.empty(shape, np.float64 if smoother is not None else dtype)
        self._n_parts = parts_of_pass(selection)
        self._workspaces = [
            None if smoother is None else smoother.workspace() for _ in range(self._n_parts)
        ]
        self._added = self._held = 0
        self._threads = Threads(self._n_parts)

    def add(self, block: AnyArray) -> None:
        """Take the next volumes, (t, z, y, x)."""
        if self._selection.smoother is None and is_view(block):
            # Series lie there as they are.
            self._flush()
            self._sums.add(self._selection.series(block), self._added, self._threads)
            self._added += len(block)
            return
        while len(block):
            now, block = np.split(block, [min(len(block), self._length - self._held)])
            self._take(now)
            self._held += len(now)
            if self._held == self._length or self._added + self._held == self._n_scans:
                self._flush()

    def _take(self, block: AnyArray) -> None:
        out = self._series[self._held : self._held + len(block)]
        # Reordered before it is shared out, lest each thread do it.
        volumes = np.ascontiguousarray(block)
        length = -(-len(block) // self._n_parts)

        def take(i: int) -> None:
            part = slice(i * length, (i + 1) * length)
            self._selection.series(volumes[part], out[part], self._workspaces[i])

        self._threads.each(take, -(-len(block) // length))

    def _flush(self) -> None:
        if self._held:
            self._sums.add(self._series[: self._held], self._added, self._threads)
            self._added, self._held = self._added + self._held, 0

    def close(self) -> None:
        """End the threads."""
        self._threads.close()
