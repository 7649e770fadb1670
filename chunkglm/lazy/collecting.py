"""Blocks of volumes added to sums by up to two threads, smoothed or collected until worth it."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import numpy as np

from chunkglm._types import AnyArray
from chunkglm.alone import has_one_thread
from chunkglm.kernels.factor import ShiftedBasis
from chunkglm.kernels.moments import Moments
from chunkglm.kernels.pages import Scratch, own_pages
from chunkglm.kernels.summing import Provisional, add_block, finish
from chunkglm.kernels.voxels import VoxelSelection, is_view

# Threads that smooth and add up beside the one that decompresses. Of a run of 91 x 109 x 91 both
# take longer than decompression; more threads would wait for it.
THREADS = 2

# Samples of a volume from which a second thread is worth waking. Of small volumes, products are so
# short that threads wait for the interpreter: with two, 64 x 64 x 30 took a sixth longer.
SAMPLES_FOR_TWO = 300_000


def threads_of_pass(selection: VoxelSelection) -> int:
    """Threads that add up: it follows from the run, not the machine."""
    volume = len(selection.planes) * selection.shape[0] * selection.shape[1]
    return THREADS if volume >= SAMPLES_FOR_TWO else 1


class Sums:
    """Moments to which blocks are added, in ranges of voxels that know nothing of each other.

    The ranges are the same wherever this runs, and so is every bit of what comes out.
    """

    def __init__(self, moments: Moments, basis: ShiftedBasis, selection: VoxelSelection) -> None:
        self.basis = basis
        self.ranges = [part.voxels for part in selection.smoothed]
        if not self.ranges:
            n_voxels = selection.n_voxels
            length = -(-n_voxels // threads_of_pass(selection))
            starts = range(0, n_voxels, length)
            self.ranges = [slice(a, min(a + length, n_voxels)) for a in starts]
        self._moments = [moments.of_voxels(part) for part in self.ranges]
        self._about: list[Provisional | None] = [None] * len(self.ranges)
        self._scratch = [Scratch() for _ in range(threads_of_pass(selection))]

    def add(self, i: int, series: AnyArray, first_volume: int, thread: int) -> None:
        """Add series (t, V') of the next block of time to those of a range."""
        self._about[i] = add_block(
            self._moments[i], series, self.basis, first_volume, self._about[i],
            self._scratch[thread],
        )  # fmt: skip

    def finish(self, i: int) -> None:
        """Put the moments of a range about the fit; all blocks were added."""
        finish(self._moments[i], self.basis, self._about[i])


class Threads:
    """The caller's thread, and those beside it."""

    def __init__(self, n: int) -> None:
        self.n = 1 if has_one_thread() else n
        self._pool = ThreadPoolExecutor(self.n - 1, "chunkglm-pass") if self.n > 1 else None

    def each(self, work: Callable[[int, int], None], n: int) -> None:
        """Call ``work(i, thread)`` for each i below n; whichever thread is free takes the next."""
        todo = deque(range(n))

        def take(thread: int) -> None:
            while todo:
                try:
                    i = todo.popleft()
                except IndexError:  # another took the last
                    return
                work(i, thread)

        # In the context of who asks, as to warnings and numpy's errors.
        beside = [
            self._pool.submit(copy_context().run, take, thread)
            for thread in range(1, min(self.n, n))
            if self._pool is not None
        ]
        try:
            take(0)
        finally:
            for future in beside:
                future.result()

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


class _Adding:
    """What is common to all ways from blocks of volumes to sums."""

    def __init__(self, sums: Sums, selection: VoxelSelection) -> None:
        self._sums, self._selection = sums, selection
        self._added = 0  # volumes
        self._threads = Threads(threads_of_pass(selection))

    def finish(self) -> None:
        """Put the sums about the fit."""
        self._threads.each(lambda i, _: self._sums.finish(i), len(self._sums.ranges))

    def close(self) -> None:
        """End the threads."""
        self._threads.close()


class Smoothed(_Adding):
    """Smooths blocks of volumes and adds them to the sums, a few planes at a time.

    A part's series are added up as soon as they are made: no smoothed volume is ever held. Volumes
    that do not count are not smoothed, which is nearly all of their cost.
    """

    def __init__(self, sums: Sums, selection: VoxelSelection, n_volumes: int) -> None:
        super().__init__(sums, selection)
        largest = max(part.index.size for part in selection.smoothed)
        # The same memory for all blocks: fresh pages cost more to touch than they take to smooth.
        self._memory = [
            (own_pages((selection.workspace_numbers,)), own_pages((n_volumes * largest,)))
            for _ in range(self._threads.n)
        ]

    def add(self, block: AnyArray) -> None:
        """Add the next volumes, (t, z, y, x)."""
        # Reordered before it is shared out, lest each thread do it.
        volumes = np.ascontiguousarray(block)
        parts = self._selection.smoothed
        _, kept = self._sums.basis.segments.within(self._added, self._added + len(volumes))

        def add(i: int, thread: int) -> None:
            memory, series = self._memory[thread]
            shape = (len(volumes), parts[i].index.size)
            found = series[: shape[0] * shape[1]].reshape(shape)
            parts[i].series(volumes, found, memory, kept)
            self._sums.add(i, found, self._added, thread)

        self._threads.each(add, len(parts))
        self._added += len(volumes)


class Collector(_Adding):
    """Takes series out of blocks of volumes, and adds them to the sums when there are enough."""

    def __init__(
        self, sums: Sums, selection: VoxelSelection, n_scans: int, length: int, dtype: Any
    ) -> None:
        super().__init__(sums, selection)
        self._n_scans, self._length = n_scans, length
        # One buffer for all blocks: fresh memory costs more to touch than the gathering itself.
        self._series = own_pages((length, selection.n_voxels), dtype)
        self._held = 0  # volumes in it

    def add(self, block: AnyArray) -> None:
        """Take the next volumes, (t, z, y, x)."""
        if is_view(block):
            # Series lie there as they are.
            self._flush()
            self._sum(self._selection.series(block))
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
        length = -(-len(block) // self._threads.n)

        def take(i: int, _: int) -> None:
            part = slice(i * length, (i + 1) * length)
            self._selection.series(volumes[part], out[part])

        self._threads.each(take, -(-len(block) // length))

    def _flush(self) -> None:
        if self._held:
            self._sum(self._series[: self._held])
            self._held = 0

    def _sum(self, series: AnyArray) -> None:
        ranges, first = self._sums.ranges, self._added

        def add(i: int, thread: int) -> None:
            self._sums.add(i, series[:, ranges[i]], first, thread)

        self._threads.each(add, len(ranges))
        self._added += len(series)
