"""How time grows with volumes, voxels, regressors, runs and workers: slopes of log-log lines."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# A line through the medians, log over log: 1 is linear.
BASE = (64, 64, 24, 200)
REGRESSORS = 12
LINEAR = 1.1  # what timing's noise leaves of "linear or better"


def growth(scratch: Path, base: tuple[int, int, int, int] = BASE, repeats: int = 3) -> str:
    """Measure, and say in a table."""
    from make_long_run import make_long_run

    x, y, z, t = base

    def made(shape: tuple[int, ...], n_regressors: int = REGRESSORS) -> tuple[Path, ...]:
        where = scratch / f"growth-{'x'.join(map(str, shape))}-{n_regressors}"
        return make_long_run(where, shape, n_regressors, ".nii")

    def one(files: Sequence[Path]) -> Callable[[], Any]:
        return lambda: _maps([files], 1).compute()

    lines = [f"a fit of {x}x{y}x{z}x{t}, {REGRESSORS} regressors, AR(1), 5 mm, from .nii; "
             f"medians of {repeats}, seconds"]  # fmt: skip
    volumes = {n: one(made((x, y, z, n))) for n in (t, 2 * t, 4 * t, 8 * t)}
    lines.append(_line("volumes", volumes, repeats))
    voxels = {x * y * n: one(made((x, y, n, t))) for n in (z, 2 * z, 4 * z)}
    lines.append(_line("voxels", voxels, repeats))
    regressors = {n: one(made(base, n)) for n in (6, 12, 24, 48)}
    lines.append(_line("regressors", regressors, repeats))
    files = made(base)
    links = []
    for i in range(16):
        link = scratch / f"growth-run-{i}.nii"
        link.unlink(missing_ok=True)
        link.symlink_to(files[0])
        links.append((link, *files[1:]))
    runs = {n: (lambda n=n: _maps(links[:n], n).compute()) for n in (2, 4, 8, 16)}
    lines.append(_line("runs, fixed effects over them", runs, repeats))
    graphs = {n: (lambda n=n: _maps(links[:n], n)) for n in (2, 4, 8, 16)}
    lines.append(_line("runs, only their graphs", graphs, repeats))
    lines.append(_workers(links, repeats))
    return "\n".join(lines)


def _maps(files: Sequence[Sequence[Path]], n: int) -> Any:
    """Lazy maps of some runs, combined where there are several."""
    import chunkglm as cg

    maps = []
    for run, design, mask, *_ in files:
        fit = cg.fit(cg.open_run(run), design, mask=mask, smoothing_fwhm=5.0)
        maps.append(cg.contrast(fit, "task"))
    return maps[0] if n == 1 else cg.fixed_effects(maps)


def _medians(works: dict[int, Callable[[], Any]], repeats: int) -> list[float]:
    """Medians, the sizes measured in turn."""
    seconds: dict[int, list[float]] = {n: [] for n in works}
    for counted in [False] + [True] * repeats:
        for n, work in works.items():
            start = time.perf_counter()
            work()
            if counted:
                seconds[n].append(time.perf_counter() - start)
    return [float(np.median(found)) for found in seconds.values()]


def _line(name: str, works: dict[int, Callable[[], Any]], repeats: int) -> str:
    found = _medians(works, repeats)
    slope = float(np.polyfit(np.log(list(works)), np.log(found), 1)[0])
    told = "  ".join(f"{n:,}: {s:.3f}" for n, s in zip(works, found, strict=True))
    mark = "linear or better" if slope <= LINEAR else "MORE THAN LINEAR"
    return f"  {name:<32}slope {slope:5.2f}  {mark}   {told}"


def _workers(links: Sequence[Sequence[Path]], repeats: int) -> str:
    """Threads, up to as many as there are cores."""
    counts = [n for n in (1, 2, 4, 8) if n <= (os.cpu_count() or 1)]
    lazy = _maps(links, len(links))
    works = {n: (lambda n=n: lazy.compute(scheduler="threads", num_workers=n)) for n in counts}
    found = _medians(works, repeats)
    told = "  ".join(f"{n}: {s:.3f}" for n, s in zip(works, found, strict=True))
    faster = found[0] / found[-1]
    return f"  {'workers (threads), ' + str(len(links)) + ' runs':<32}{counts[-1]} take 1/{faster:.2f} of 1's time   {told}"  # noqa: E501
