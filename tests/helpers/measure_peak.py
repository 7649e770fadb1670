"""Do planned work in a fresh process; print what was planned and the peak that was measured.

Run as ``python measure_peak.py JSON``; `measured` does so. ``VmHWM`` is this program's own
high-water mark: ``ru_maxrss`` of a child begins at what its parent held when it was forked.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

THREADS = 2
N_REGRESSORS = 12
STATUS = Path("/proc/self/status")


class Measured(NamedTuple):
    """Bytes."""

    planned: int
    peak: int


def measured(**job: Any) -> Measured:
    """Plan and do a job in a process of its own.

    Parameters
    ----------
    **job
        ``work``: "convert", "fit" or "fixed effects"; ``runs``: paths; ``store``, ``memory_limit``,
        ``mask`` (path of an .npy), ``smoothing_fwhm``, ``chunks`` (of time and space, in which the
        runs are then cut: any dask array, no longer the file's own).
    """
    command = [sys.executable, __file__, json.dumps(job, default=str)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return Measured(*json.loads(done.stdout.splitlines()[-1]))


def do(job: dict[str, Any]) -> Measured:
    """Plan a job, then do it."""
    import dask

    import chunkglm as cg

    limit = job.get("memory_limit")
    with dask.config.set(scheduler="threads", num_workers=THREADS):
        if job["work"] == "convert":
            (run,) = job["runs"]
            planned = cg.plan(run, job["store"], memory_limit=limit, threads=THREADS)
            cg.convert(run, job["store"], overwrite=True, memory_limit=limit, progress=False)
            return Measured(planned.memory_bytes, peak())
        maps = []
        for i, path in enumerate(job["runs"]):
            run = cg.open_run(path)
            if job.get("chunks"):
                run = run.chunk(job["chunks"])
            noise = np.random.default_rng(i).standard_normal((run.sizes["time"], N_REGRESSORS))
            design = np.c_[noise[:, 1:], np.ones(len(noise))]
            mask = np.load(job["mask"]) if job.get("mask") else None
            fit = cg.fit(run, design, mask=mask, smoothing_fwhm=job.get("smoothing_fwhm"))
            maps.append(cg.contrast(fit, np.eye(N_REGRESSORS)[0]))
        if job["work"] == "fit":
            planned, wanted = cg.plan(fit), maps[-1]
        else:
            planned, wanted = cg.plan(maps), cg.fixed_effects(maps)
        wanted.compute()
        return Measured(planned.memory_bytes, peak())


def peak() -> int:
    """Peak resident memory of this process."""
    line = next(s for s in STATUS.read_text().splitlines() if s.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(do(json.loads(sys.argv[1]))))
