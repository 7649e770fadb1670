"""Rows of the table, and how both sides of one are timed."""

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "benchmark.py"
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
WIDTH = 62


class NotTheSameError(Exception):
    """The two sides of a row do not give the same numbers."""


@dataclass
class Row:
    """One line of the table: the left side is nilearn, unless `beside` says what it is."""

    name: str  # short, for the baseline and the README
    work: str
    left: float | None  # None where that side failed; `note` says how
    right: float
    unit: str
    ratio: float | None
    goal: str
    reached: bool
    spread: str = ""
    beside: str = "nilearn"
    note: str = ""
    beneath: str = ""  # lines of their own, beneath the row or the page's table

    def __str__(self) -> str:
        """Lay it out for a terminal."""
        left = f"{self.left:10.3f}" if self.left is not None else f"{'-':>10}"
        ratio = f"{self.ratio:8.2f}" if self.ratio is not None else f"{'-':>8}"
        mark = "yes" if self.reached else "NO"
        beside = "" if self.beside == "nilearn" else f"left: {self.beside}. "
        said = f"{self.spread:<13}{beside}{self.note}".rstrip()
        beneath = "".join(f"\n    {line}" for line in self.beneath.splitlines())
        return (
            f"{self.work:<{WIDTH}}{left}{self.right:10.3f} {self.unit:<3}{ratio}  "
            f"{self.goal:<8}{mark:<4}{said}{beneath}"
        )


HEAD = f"{'':<{WIDTH}}{'nilearn':>10}{'chunkglm':>10}{'':<4}{'ratio':>8}  {'goal':<8}ok  spread"


def faster_row(
    name: str, work: str, theirs: Sequence[float], ours: Sequence[float], goal: float, **more: Any
) -> Row:
    """How many times faster: the median of the ratios pair by pair, and their range."""
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return _row(name, work, theirs, ours, ratios, f">= {goal:g}", goal, more)


def share_row(
    name: str, work: str, theirs: Sequence[float], ours: Sequence[float], most: float, **more: Any
) -> Row:
    """What share of the left side the right one takes, in seconds or megabytes."""
    shares = [b / a for a, b in zip(theirs, ours, strict=True)]
    return _row(name, work, theirs, ours, shares, f"<= {most:g}", most, more)


def _row(
    name: str, work: str, theirs: Sequence[float], ours: Sequence[float], ratios: list[float],
    goal: str, limit: float, more: dict[str, Any],
) -> Row:  # fmt: skip
    ratio = statistics.median(ratios)
    reached = ratio >= limit if goal.startswith(">") else ratio <= limit
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}" if len(ratios) > 1 else ""
    unit = more.pop("unit", "s")
    medians = statistics.median(theirs), statistics.median(ours)
    return Row(name, work, *medians, unit, ratio, goal, reached, spread, **more)


def paired(
    theirs: Callable[[], Any], ours: Callable[[], Any], repeats: int
) -> tuple[list[float], list[float]]:
    """Seconds of both sides, measured in turn after one call each that is not counted."""
    theirs(), ours()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for work, found in zip((theirs, ours), seconds, strict=True):
            start = time.perf_counter()
            work()
            found.append(time.perf_counter() - start)
    return seconds


def refuse_unless(same: bool, work: str) -> None:
    """Measure nothing rather than print a ratio of two different things."""
    if not same:
        msg = f"{work}: the two sides do not give the same numbers; no ratio is printed"
        raise NotTheSameError(msg)


def decompression(runs: Sequence[Any]) -> float:
    """Seconds to decompress the files, one after the other, with igzip alone."""
    from isal import igzip

    buffer = bytearray(1 << 22)
    start = time.perf_counter()
    for run in runs:
        with igzip.open(run, "rb") as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def machine() -> dict[str, str]:
    """What the figures depend on."""
    packages = ("chunkglm", "nilearn", "numpy", "scipy", "dask", "xarray", "zarr", "isal")
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), model)
    return {
        "cpu": f"{model}, {os.cpu_count()} cores",
        "memory": f"{total_memory() / 1e9:.0f} GB",
        "threads": f"{os.environ.get('OMP_NUM_THREADS', 'any')}, on both sides",
        "load": " ".join(f"{value:.2f}" for value in os.getloadavg()) + " before",
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in packages),
    }


def total_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_megabytes(pid: int | str = "self") -> float:
    """Peak resident memory of a process.

    A child's ``ru_maxrss`` begins at what its parent held when it was forked, so Linux's own
    high-water mark of the program is read where there is one.
    """
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        found = [s for s in status.read_text().splitlines() if s.startswith("VmHWM")]
        return int(found[0].split()[1]) / 2**10 if found else 0.0
    import resource

    per_megabyte = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_megabyte


@dataclass
class Alone:
    """What became of a job in a process of its own."""

    seconds: float  # of the whole process
    megabytes: float  # its peak
    told: dict[str, Any]  # what the job printed last
    failure: str = ""


def alone(limit_gb: float | None = None, **job: Any) -> Alone:
    """Do a job of `benchmarks.jobs` in a fresh process.

    Parameters
    ----------
    limit_gb : float, optional
        Resident memory at which it is ended, lest it take the machine with it.
    **job
        Name and arguments.
    """
    command = [sys.executable, str(SCRIPT), "--worker", json.dumps(job)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    ended = threading.Event()
    watched: list[float] = []

    def watch() -> None:
        while not ended.wait(0.1):
            watched.append(peak_megabytes(process.pid))
            if limit_gb is not None and watched[-1] > 1000 * limit_gb:
                process.kill()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    out = process.communicate()[0]
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    if process.returncode:
        peak = max(watched, default=0.0)
        why = f"ended with {process.returncode}"
        if limit_gb is not None and peak > 1000 * limit_gb:
            why = f"stopped at {peak / 1000:.1f} GB, after {seconds:.0f} s"
        return Alone(seconds, peak, {}, why)
    told = json.loads(out.splitlines()[-1])
    return Alone(seconds, told.pop("peak"), told)


def alone_or_raise(**job: Any) -> Alone:
    """`alone`, of which nothing is expected to fail."""
    found = alone(**job)
    if found.failure:
        msg = f"the process for {job} {found.failure}"
        raise RuntimeError(msg)
    return found
