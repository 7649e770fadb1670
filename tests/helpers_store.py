"""Processes that write stores: ended at a rename, held in the middle, or killed at any time."""

import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from helpers_lazy import make_design, make_mask

import chunkglm as cg

# Forked from a process that has imported everything and done nothing: 0.03 s each and not 2 s.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["chunkglm.glm", "chunkglm.io.store", "nibabel", "xarray", "zarr"])


def convert(source: Path, store: Path | str, overwrite: bool, storage_options: Any = None) -> None:
    """Convert a run."""
    cg.convert(source, store, overwrite=overwrite, progress=False, storage_options=storage_options)


def save_fit(source: Path, store: Path, overwrite: bool) -> None:
    """Fit a run and save the fit."""
    cg.fit(source, make_design(), mask=make_mask()).save(store, overwrite=overwrite)


def values_of_run(store: Path) -> bytes:
    """All of a run's store."""
    return cg.open_run(store).to_numpy().tobytes()


def values_of_fit(store: Path) -> bytes:
    """All that a contrast takes from a fit's store."""
    maps = cg.contrast(cg.open_fit(store), "a - b").compute()
    return b"".join(maps[name].to_numpy().tobytes() for name in sorted(maps.data_vars))


def start(work: Callable[..., None], *args: Any) -> Any:
    """Run a function in a process of its own."""
    process = CONTEXT.Process(target=work, args=args)
    process.start()
    return process


def end(process: Any) -> int:
    """Wait for a process; its exit code, negative for a signal."""
    process.join(60)
    assert process.exitcode is not None
    return int(process.exitcode)


def ended_at_rename(number: int, after: bool, work: Callable[..., None], *args: Any) -> None:
    """Kill this process right before or after its rename of that number, counted from 0."""
    counter = itertools.count()

    def deadly(rename: Callable[..., None]) -> Callable[..., None]:
        def renamed(*names: Any, **kwargs: Any) -> None:
            mine = next(counter) == number
            if mine and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*names, **kwargs)
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)

        return renamed

    os.rename, os.replace = deadly(os.rename), deadly(os.replace)  # type: ignore[assignment]
    work(*args)


def held(flags: Path, work: Callable[..., None], *args: Any) -> None:
    """Stop after the first block of data until a file named ``go`` is there."""
    from chunkglm.io.nifti import NiftiRun

    original = NiftiRun.blocks

    def slow(self: NiftiRun, planes: range, n_volumes: int, **how: bool) -> Any:
        for first, block in original(self, planes, n_volumes, **how):
            yield first, block
            (flags / "started").touch()
            wait_for(flags / "go")

    NiftiRun.blocks = slow  # type: ignore[method-assign]
    work(*args)


def wait_for(path: Path, seconds: float = 60) -> None:
    """Wait until a file is there."""
    end_of_patience = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end_of_patience, f"{path} did not appear"
        time.sleep(0.005)


def noise(shape: tuple[int, ...], seed: int = 0) -> Any:
    """Samples that no codec can shrink."""
    low, high = np.iinfo(np.int16).min, np.iinfo(np.int16).max
    return np.random.default_rng(seed).integers(low, high, shape, dtype=np.int16, endpoint=True)
