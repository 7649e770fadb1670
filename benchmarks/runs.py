"""Rows of whole runs on disk: conversion, small masks, and runs that nilearn cannot hold."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jobs import FWHM, one_run
from benchmarks.rows import (
    DATA,
    Row,
    alone,
    alone_or_raise,
    decompression,
    faster_row,
    paired,
    refuse_unless,
    share_row,
    total_memory,
)
from benchmarks.two_runs import SAME_BUT_FOR, off_share

MEDIUM = (64, 76, 64, 680)
LONG = (64, 76, 64, 6804)  # nilearn fails on it
LARGE = (91, 109, 91, 1200)  # as programs write them that bring runs into a standard space
LARGE_REGRESSORS, LARGE_LEVEL, LARGE_VOXEL = 30, 1500.0, 2.0

# Each takes a quarter of a minute.
MOST_LARGE = 3

# nilearn's side of the large run is ended before it takes the machine with it.
MOST_OF_MEMORY = 0.8


@dataclass
class Files:
    """A simulated run, made once."""

    bold: Path
    design: Path
    brain: Path
    small: Path

    def job(self, run: Path | None = None, mask: Path | None = None) -> dict[str, str]:
        """Arguments of `one_run`."""
        return {"run": str(run or self.bold), "design": str(self.design),
                "mask": str(mask or self.brain)}  # fmt: skip


def simulated(
    where: Path, shape: tuple[int, int, int, int], n_regressors: int, suffix: str, **more: float
) -> Files:
    """Make a run unless it is there."""
    from make_long_run import make_long_run

    names = (f"bold{suffix}", "design.csv", "mask.nii.gz", "small-mask.nii.gz")
    paths = [where / name for name in names]
    if not all(path.exists() for path in paths):
        print(f"  making {paths[0]}", flush=True)
        make_long_run(where, shape, n_regressors, suffix, **more)
    return Files(*paths)


def name_of(shape: tuple[int, ...]) -> str:
    """Shape as it is told."""
    return "x".join(map(str, shape))


def medium_rows(
    folder: Path, scratch: Path, repeats: int, shape: tuple[int, int, int, int] = MEDIUM
) -> Iterator[Row]:
    """A run of 680 volumes: conversion, and a small mask from its store."""
    import chunkglm as cg

    where = folder / str(shape[3])
    packed = simulated(where / "packed", shape, 20, ".nii.gz")
    store = where / "bold.zarr"
    alone_, converted = paired(
        lambda: decompression([packed.bold]),
        lambda: cg.convert(packed.bold, store, overwrite=True, progress=False),
        repeats,
    )
    back = cg.open_run(store)[..., 3].to_numpy()
    refuse_unless(bool((back == cg.open_run(packed.bold)[..., 3].to_numpy()).all()), "conversion")
    yield faster_row(
        "convert", f"convert {name_of(shape)} .nii.gz to a store", alone_, converted, 0.6,
        beside="igzip alone",
    )  # fmt: skip
    yield from _compression(folder)

    def fitted(mask: Path) -> Any:
        fit = cg.fit(cg.open_run(store), packed.design, mask=mask, noise="ar1")
        return cg.contrast(fit, "task")["stat"].compute().to_numpy()

    whole, part = fitted(packed.brain), fitted(packed.small)
    refuse_unless(not off_share(part, np.nan_to_num(whole), 1e-9).any(), "a small mask")
    seconds = paired(lambda: fitted(packed.brain), lambda: fitted(packed.small), repeats)
    yield share_row(
        "small-mask", "4,000 voxels from its store", *seconds, 0.3, beside="the whole brain"
    )


def _compression(folder: Path) -> Iterator[Row]:
    """How a real run shrinks, where one is at hand."""
    import chunkglm as cg

    epi = DATA / "epi" / "bold.nii.gz"
    if not epi.exists():
        return
    store = Path(cg.convert(epi, folder / "epi.zarr", overwrite=True, progress=False))
    raw = float(np.prod(cg.open_run(epi).shape)) * 2 / 1e6
    stored = sum(p.stat().st_size for p in store.glob("bold/c/**/*") if p.is_file()) / 1e6
    yield faster_row(
        "compression", "  compression of a real run", [raw], [stored], 5, unit="MB",
        beside="int16, raw",
    )  # fmt: skip


def long_rows(
    folder: Path,
    scratch: Path,
    repeats: int,
    shape: tuple[int, int, int, int] = LONG,
    short: int = MEDIUM[3],
) -> Iterator[Row]:
    """Peak memory of a run of 6,804 volumes, 4.2 GB, beside one of 680."""
    import chunkglm as cg

    runs, stores = {}, {}
    for n_scans in (short, shape[3]):
        runs[n_scans] = simulated(folder / str(n_scans), (*shape[:3], n_scans), 20, ".nii")
        stores[n_scans] = folder / str(n_scans) / "long.zarr"
        if not _opens(stores[n_scans]):
            cg.convert(runs[n_scans].bold, stores[n_scans], overwrite=True, progress=False)
    for kind in (".nii", "store"):
        found = {}
        for n_scans, files in runs.items():
            run = files.bold if kind == ".nii" else stores[n_scans]
            job = files.job(run)
            found[n_scans] = alone_or_raise(
                job="one_run", side="chunkglm", **job, out=str(scratch / "long")
            )
        low, high = found[short], found[shape[3]]
        work = f"peak of {name_of(shape)}, {kind}, AR(1)"
        yield share_row(
            f"long-{kind.strip('.')}", work, [1500.0], [high.megabytes], 1, unit="MB",
            beside="the goal", note=f"{high.seconds:.0f} s",
        )  # fmt: skip
        yield share_row(
            f"long-growth-{kind.strip('.')}", "  and as volumes grow tenfold", [low.megabytes],
            [high.megabytes], 1.1, unit="MB", beside=f"{short} volumes",
        )  # fmt: skip


def _opens(store: Path) -> bool:
    """Whether a store is there, whole, and of this version's format."""
    import chunkglm as cg

    try:
        cg.open_run(store)
    except cg.ChunkglmError:
        return False
    return True


def large_rows(
    folder: Path,
    scratch: Path,
    repeats: int,
    shape: tuple[int, int, int, int] = LARGE,
    n_regressors: int = LARGE_REGRESSORS,
    *,
    nilearn: bool = True,
) -> Iterator[Row]:
    """A long run in a standard space, smoothed: time over igzip's, memory, and nilearn's."""
    more = {"level": LARGE_LEVEL, "voxel": LARGE_VOXEL}
    files = simulated(folder / str(shape[3]), shape, n_regressors, ".nii.gz", **more)
    out = scratch / "large"
    job = {**files.job(), "out": str(out), "fwhm": FWHM}
    floor, ours, peaks = [], [], []
    for _ in range(min(repeats, MOST_LARGE)):
        floor.append(decompression([files.bold]))
        found = alone_or_raise(job="one_run", side="chunkglm", **job)
        ours.append(found.seconds)
        peaks.append(found.megabytes)
    work = f"{name_of(shape)} .nii.gz, {n_regressors} regressors, 5 mm"
    yield share_row("large-memory", f"peak of {work}", [1000.0], [max(peaks)], 1, unit="MB",
                    beside="the goal")  # fmt: skip
    yield share_row(
        "large-floor", "  its time, imports and writing included", floor, ours, 2.5,
        beside="igzip alone",
    )  # fmt: skip
    if nilearn:
        yield from _large_beside(job, out, ours, peaks)


def _large_beside(
    job: dict[str, Any], out: Path, ours: list[float], peaks: list[float]
) -> Iterator[Row]:
    """The same in nilearn, once: it takes minutes."""
    theirs = alone(MOST_OF_MEMORY * total_memory() / 1e9, job="one_run", side="nilearn", **job)
    if theirs.failure:
        note = f"nilearn was {theirs.failure}" if theirs.megabytes else theirs.failure
        yield Row("large", "  the same in nilearn", None, max(peaks), "MB", None, "", True,
                  note=note)  # fmt: skip
        return
    import nibabel as nib

    t = nib.load(out / "nilearn_t.nii.gz").get_fdata()
    found = nib.load(out / "chunkglm_stat-t_statmap.nii.gz").get_fdata()
    refuse_unless(off_share(found, t).mean() < SAME_BUT_FOR, "the large run")
    yield faster_row("large", "  the same in nilearn, once", [theirs.seconds], [min(ours)], 3.5)
    yield share_row(
        "large-memory-share", "  its memory", [theirs.megabytes], [max(peaks)], 0.5, unit="MB"
    )


def warm_one_run(files: Files, scratch: Path) -> dict[str, Any]:
    """`one_run` in this process, for profiles."""
    return one_run("chunkglm", **files.job(), out=str(scratch / "warm"), fwhm=FWHM)
