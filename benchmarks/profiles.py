"""Where the time of a job goes, part by part, and how far each is from the machine's limit."""

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jobs import FWHM, chunkglm_job, fiac_files
from benchmarks.rows import decompression

# Innermost wins: a part that calls another is not charged for it.
PARTS = {
    "decompression": [("chunkglm.io.nifti", "_fill"), ("chunkglm.io.nifti", "_skip")],
    "smoothing": [("chunkglm.kernels.voxels", "SmoothedPart.series")],
    "products": [("chunkglm.lazy.collecting", "add_block"), ("chunkglm.lazy.collecting", "finish")],
    "solves": [("chunkglm.lazy.maps", "_SlabFunction.__call__"),
               ("chunkglm.glm.combined", "_Combine.__call__")],
    "writing": [("chunkglm.glm.maps", "_write_map"), ("chunkglm.glm.maps", "write_sidecar")],
}  # fmt: skip


class Clock:
    """Processor seconds of each part, over all threads."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._inside = threading.local()
        self._lock = threading.Lock()

    def wrapped(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            stack = self._stack()
            start = time.thread_time()
            stack.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                whole = time.thread_time() - start
                within = stack.pop()
                if stack:
                    stack[-1] += whole
                with self._lock:
                    self.seconds[part] += whole - within

        return timed

    def _stack(self) -> list[float]:
        if not hasattr(self._inside, "stack"):
            self._inside.stack = []
        found: list[float] = self._inside.stack
        return found


@contextmanager
def clocked() -> Iterator[Clock]:
    """Time the parts of whatever is done meanwhile."""
    from importlib import import_module

    clock, undo = Clock(), []
    for part, places in PARTS.items():
        for module_name, path in places:
            owner: Any = import_module(module_name)
            *outer, name = path.split(".")
            for attribute in outer:
                owner = getattr(owner, attribute)
            function = getattr(owner, name)
            undo.append((owner, name, function))
            setattr(owner, name, clock.wrapped(part, function))
    try:
        yield clock
    finally:
        for owner, name, function in undo:
            setattr(owner, name, function)


def profiles(folder: Path, scratch: Path) -> str:
    """The two-run job and the large run, part by part."""
    import chunkglm as cg
    from benchmarks.runs import LARGE, LARGE_LEVEL, LARGE_REGRESSORS, LARGE_VOXEL, simulated

    files = fiac_files(folder)
    limits = machine_limits()
    lines = [limits.told(), "", f"imports: {_imports():.2f} s of a fresh process"]
    two = lambda: cg.save(chunkglm_job(*files), scratch / "profile", prefix="p")  # noqa: E731
    two()
    lines += ["", _told("two runs 64x64x30x191, 5 mm, AR(1), fixed effects, written; warm", two,
                        _processor_seconds(lambda: decompression(files[0])), limits)]  # fmt: skip
    where = folder / str(LARGE[3])
    if (where / "bold.nii.gz").exists():
        large = simulated(where, LARGE, LARGE_REGRESSORS, ".nii.gz", level=LARGE_LEVEL,
                          voxel=LARGE_VOXEL)  # fmt: skip

        def one() -> None:
            fit = cg.fit(large.bold, large.design, mask=large.brain, smoothing_fwhm=FWHM)
            cg.save(cg.contrast(fit, "task"), scratch / "profile", prefix="p")

        title = "91x109x91x1200, 5 mm, AR(1), 30 regressors, written; warm"
        alone = _processor_seconds(lambda: decompression([large.bold]))
        lines += ["", _told(title, one, alone, limits)]
    return "\n".join(lines)


def _processor_seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _told(title: str, work: Callable[[], Any], igzip: float, limits: "Limits") -> str:
    with clocked() as clock, counted_work() as counts:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    least = {
        "decompression": (igzip, "igzip alone"),
        "smoothing": (counts["smoothing"] / limits.flops, "its products at BLAS's peak"),
        "products": (counts["products"] / limits.flops, "its products at BLAS's peak"),
    }
    lines = [title, f"  {'wall':<16}{wall:7.2f} s", f"  {'processor':<16}{cpu:7.2f} s, of which"]
    for part in PARTS:
        seconds = clock.seconds[part]
        text = f"  {'  ' + part:<16}{seconds:7.2f} s {seconds / cpu:5.0%}"
        if part in least:
            limit, what = least[part]
            text += f"   {seconds / limit:4.1f} times the {limit:.2f} s of {what}"
        lines.append(text)
    rest = cpu - sum(clock.seconds.values())
    lines.append(f"  {'  the rest':<16}{rest:7.2f} s {rest / cpu:5.0%}   dask, labels, checks")
    return "\n".join(lines)


@contextmanager
def counted_work() -> Iterator[Counter[str]]:
    """Count floating-point operations of the products of smoothing and moments."""
    from chunkglm.kernels.voxels import SmoothedPart
    from chunkglm.lazy import collecting

    counts: Counter[str] = Counter()
    lock = threading.Lock()
    series, add = SmoothedPart.series, collecting.add_block

    def counted_series(self: Any, block: Any, out: Any, memory: Any, kept: Any) -> Any:
        z, y, x = self.smoother.z, self.smoother.y, self.smoother.x
        work = z.matrices.size * (y.into.stop - y.into.start) * (x.into.stop - x.into.start)
        work += y.matrices.size * z.n_out * (x.into.stop - x.into.start)
        work += x.matrices.size * z.n_out * y.n_out
        with lock:
            counts["smoothing"] += 2 * work * len(kept)
        return series(self, block, out, memory, kept)

    def counted_add(moments: Any, series: Any, basis: Any, *args: Any) -> Any:
        with lock:
            counts["products"] += 2 * series.size * ((basis.n_lags + 1) * (basis.rank + 1) + 1)
        return add(moments, series, basis, *args)

    SmoothedPart.series, collecting.add_block = counted_series, counted_add  # type: ignore
    try:
        yield counts
    finally:
        SmoothedPart.series, collecting.add_block = series, add  # type: ignore


class Limits:
    """What this machine does at most, one thread."""

    def __init__(self, flops: float, copied: float) -> None:
        self.flops, self.copied = flops, copied

    def told(self) -> str:
        """For the table."""
        return (
            f"one core: {self.flops / 1e9:.0f} GFLOP/s in float64 products (BLAS, 1,000 x 1,000), "
            f"{self.copied / 1e9:.1f} GB/s copied"
        )


def machine_limits(n: int = 1000, n_bytes: int = 200_000_000) -> Limits:
    """Measure BLAS's peak and the bandwidth of a copy, with one thread."""
    from threadpoolctl import threadpool_limits

    square = np.random.default_rng(0).standard_normal((n, n))
    whole = np.ones(n_bytes // 8)
    copy = np.empty_like(whole)

    def best(work: Callable[[], Any]) -> float:
        found = []
        for _ in range(5):
            start = time.perf_counter()
            work()
            found.append(time.perf_counter() - start)
        return min(found)

    with threadpool_limits(1):
        return Limits(
            2 * n**3 / best(lambda: square @ square),
            whole.nbytes / best(lambda: np.copyto(copy, whole)),
        )


def _imports(repeats: int = 3) -> float:
    """Seconds to start Python and import what the job needs."""
    code = "import chunkglm as cg; cg.open_run, cg.fit, cg.contrast, cg.fixed_effects, cg.save"
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        found.append(time.perf_counter() - start)
    return float(np.median(found))
