"""Measure chunkglm beside nilearn, in one run on this machine, and print a table of ratios.

Run ``python scripts/benchmark.py`` with nothing else going on. Timings alternate between the two
sides and medians are quoted; peak memory and whole-process times come from fresh processes. A
ratio is printed only when both sides give the same numbers.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

CONTRAST = "DStSSp + DStDSp - SStSSp - SStDSp"
SMOOTHING_FWHM = 5.0

# nilearn casts int16 images to float32: t then differs by 1e-5 of itself (worst seen 6e-5).
SAME_T = 1e-3
# On float64 images nilearn computes in float64 too (worst seen 3e-14 of the largest t).
SAME_T_EXACT = 1e-6
# Share of voxels whose AR coefficient lies so near a bin's edge that float32 moves it across.
SAME_BUT_FOR = 1e-3
# nilearn fails on 6,804 volumes of this size.
LONG_SPACE = (64, 76, 64)
# On float64 input both sides agree to rounding (worst seen 2e-12).
SAME_KERNEL = 1e-8


@dataclass
class Row:
    """One line of the table."""

    work: str
    nilearn: float
    chunkglm: float
    unit: str
    ratio: float
    goal: str
    reached: bool
    spread: str = ""

    def __str__(self) -> str:
        """Lay it out for a terminal."""
        mark = "yes" if self.reached else "NO"
        return (
            f"{self.work:<61}{self.nilearn:10.3f}{self.chunkglm:10.3f} {self.unit:<3}"
            f"{self.ratio:8.2f}  {self.goal:<8}{mark:<4}{self.spread}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="timed pairs of each row")
    parser.add_argument("--quick", action="store_true", help="three pairs of each row")
    parser.add_argument("--json", type=Path, help="also write the table and the machine here")
    parser.add_argument("--data", type=Path, help="folder for the simulated runs, kept")
    parser.add_argument("--long", action="store_true", help="also a run of 4.2 GB; takes minutes")
    parser.add_argument("--study", action="store_true", help="only a study, on two processes")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work_alone(**options.worker)
        return
    if options.study:
        # A script of its own, which the processes that it starts import.
        script = str(Path(__file__).with_name("benchmark_study.py"))
        command = [sys.executable, script, "--pairs", "3" if options.quick else "5"]
        folder = ["--folder", str(options.data)] if options.data else []
        sys.exit(subprocess.run([*command, *folder], check=False).returncode)
    with tempfile.TemporaryDirectory() as scratch:
        measure(options, options.data or Path(scratch) / "data", Path(scratch))


def measure(options: argparse.Namespace, folder: Path, scratch: Path) -> None:
    import chunkglm as cg

    warnings.simplefilter("ignore")
    repeats = 3 if options.quick else options.repeats
    machine = describe_machine()
    print("\n".join(f"{key:<12}{value}" for key, value in machine.items()))
    data = cg.simulate_fiac(folder)
    print(f"\n{'':<61}{'nilearn':>10}{'chunkglm':>10}{'':<4}{'ratio':>8}  {'goal':<8}ok  spread")
    rows: list[Row] = []
    for measured in (
        lambda: kernel_rows(3 * repeats),
        lambda: [higher_order_row(3 * repeats)],
        lambda: job_rows(data, repeats),
        lambda: drop_in_rows(data, folder, scratch, repeats),
        lambda: contrast_rows(data, scratch, repeats),
        lambda: whole_rows(folder, scratch, repeats),
        lambda: medium_rows(folder, repeats),
        lambda: long_rows(folder) if options.long else [],
    ):
        for row in measured():
            rows.append(row)
            print(row, flush=True)
    if options.json:
        found = {"machine": machine, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def describe_machine() -> dict[str, str]:
    packages = ("chunkglm", "nilearn", "numpy", "scipy", "dask", "xarray", "isal")
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), model)
    return {
        "cpu": f"{model}, {os.cpu_count()} cores",
        "load": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in packages),
    }


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


def ratio_row(
    work: str, theirs: list[float], ours: list[float], goal: float, unit: str = "s"
) -> Row:
    """Median of the ratios pair by pair, and their range."""
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    ratio = statistics.median(ratios)
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
    medians = statistics.median(theirs), statistics.median(ours)
    return Row(work, *medians, unit, ratio, f">= {goal:g}", ratio >= goal, spread)


def kernel_rows(repeats: int) -> list[Row]:
    """AR(1) fit and one contrast on arrays in memory, without and with p and z."""
    from nilearn.glm.contrasts import compute_contrast
    from nilearn.glm.first_level import run_glm
    from threadpoolctl import threadpool_limits

    from chunkglm.kernels.estimate import contrast_maps, estimate
    from chunkglm.kernels.factor import factor_design
    from chunkglm.kernels.moments import of_series
    from chunkglm.kernels.noise import AR
    from chunkglm.kernels.solve import Model

    rng = np.random.default_rng(0)
    n_scans, n_regressors, n_voxels = 191, 12, 20_000
    design = np.c_[rng.standard_normal((n_scans, n_regressors - 1)), np.ones(n_scans)]
    series = 1e4 + 100 * rng.standard_normal((n_scans, n_voxels))
    weights = np.eye(n_regressors)[:1]

    def their_t() -> Any:
        labels, results = run_glm(series, design, "ar1", bins=100)
        found = compute_contrast(labels, results, weights[0])
        return found, found.effect, found.variance, found.stat()

    def their_z() -> Any:
        found = their_t()[0]
        return found.p_value(), found.z_score()

    def our_moments() -> Any:
        factor = factor_design(design)
        model = Model(factor, AR(1, bins=100), percent=False)
        moments = of_series(series, factor.shifted_basis(1))
        return moments, model, factor.contrast_in_basis(weights)

    def our_t() -> Any:
        effect, variance, _ = estimate(*our_moments())
        return effect[0], variance[0, 0], effect[0] / np.sqrt(variance[0, 0])

    def our_z() -> Any:
        return contrast_maps(*our_moments(), "t")

    with threadpool_limits(1):
        same = np.abs(our_t()[2] - their_t()[3]).max() < SAME_KERNEL
        same &= np.abs(our_z()["z_score"] - their_z()[1]).max() < SAME_KERNEL
        refuse_unless(bool(same), "kernel")
        work = "kernel: AR(1) + contrast, 20,000 voxels x 191 x 12, 1 thread"
        return [
            ratio_row(work, *paired(their_t, our_t, repeats), 20),
            ratio_row("  with p and z maps", *paired(their_z, our_z, repeats), 15),
        ]


def higher_order_row(repeats: int) -> Row:
    """AR(3) fit and one contrast; nilearn takes the coefficients of clusters of voxels."""
    from nilearn.glm.contrasts import compute_contrast
    from nilearn.glm.first_level import run_glm
    from nilearn.glm.regression import ARModel
    from threadpoolctl import threadpool_limits

    from chunkglm.kernels.estimate import estimate, model_maps
    from chunkglm.kernels.factor import factor_design
    from chunkglm.kernels.moments import of_series
    from chunkglm.kernels.noise import AR
    from chunkglm.kernels.solve import Model

    rng = np.random.default_rng(0)
    n_scans, n_regressors, n_voxels = 191, 12, 20_000
    design = np.c_[rng.standard_normal((n_scans, n_regressors - 1)), np.ones(n_scans)]
    series = 100 * rng.standard_normal((n_scans, n_voxels))
    for t in range(1, n_scans):
        series[t] += 0.4 * series[t - 1]
    series += 1e4
    weights = np.eye(n_regressors)[:1]

    def theirs() -> Any:
        labels, results = run_glm(series, design, "ar3")
        return compute_contrast(labels, results, weights[0]).stat()

    def our_moments() -> Any:
        factor = factor_design(design)
        model = Model(factor, AR(3), percent=False)
        return of_series(series, factor.shifted_basis(3)), model

    def ours() -> Any:
        moments, model = our_moments()
        effect, variance, _ = estimate(moments, model, model.factor.contrast_in_basis(weights))
        return effect[0] / np.sqrt(variance[0, 0])

    with threadpool_limits(1):
        found, coefficients = ours(), model_maps(*our_moments())["ar"]
        # Voxel by voxel nilearn's model gives the same, given the same coefficients.
        same = True
        for v in range(0, n_voxels, 1000):
            one = ARModel(design, coefficients[:, v]).fit(series[:, v : v + 1])
            same &= abs(one.Tcontrast(weights[0]).t.item() - found[v]) < SAME_KERNEL
        refuse_unless(bool(same), "kernel of AR(3)")
        work = "kernel: AR(3) + contrast, 20,000 voxels x 191 x 12, 1 thread"
        return ratio_row(work, *paired(theirs, ours, max(3, repeats // 3)), 20)


def chunkglm_job(runs: Any, designs: Any, mask: Any) -> Any:
    import chunkglm as cg

    maps = []
    for run, design in zip(runs, designs, strict=True):
        fit = cg.fit(
            cg.open_run(run),
            design,
            mask=mask,
            smoothing_fwhm=SMOOTHING_FWHM,
            noise=cg.AR(1, bins=100),  # nilearn's truncation, so that the numbers are the same
        )
        maps.append(cg.contrast(fit, CONTRAST))
    return cg.fixed_effects(maps)


def nilearn_job(runs: Any, designs: Any, mask: Any, *, drop_in: bool = False) -> Any:
    """The job in nilearn's lines; `drop_in` changes the imports and nothing else."""
    import pandas as pd

    if drop_in:
        from chunkglm.nilearn import FirstLevelModel, compute_fixed_effects
    else:
        from nilearn.glm.contrasts import compute_fixed_effects
        from nilearn.glm.first_level import FirstLevelModel

    effects, variances, dofs = [], [], []
    for run, path in zip(runs, designs, strict=True):
        with np.load(path) as stored:
            design = pd.DataFrame(stored["X"], columns=list(stored["conditions"]))
        model = FirstLevelModel(mask_img=str(mask), smoothing_fwhm=SMOOTHING_FWHM)
        model.fit(str(run) if isinstance(run, Path) else run, design_matrices=design)
        found = model.compute_contrast(CONTRAST, output_type="all")
        effects.append(found["effect_size"])
        variances.append(found["effect_variance"])
        dofs.append(len(design) - np.linalg.matrix_rank(design))
    return compute_fixed_effects(effects, variances, str(mask), dofs=dofs)


def job_rows(data: Any, repeats: int) -> list[Row]:
    """Two runs from .nii.gz to fixed effects, both sides warm in this process."""
    files = data.runs, data.designs, data.mask
    t = np.asarray(nilearn_job(*files)[2].dataobj)
    found = chunkglm_job(*files)["stat"].compute().to_numpy()
    inside = np.isfinite(found)
    off = np.abs(found[inside] - t[inside]) > SAME_T * np.abs(t[inside]).clip(1)
    refuse_unless(off.mean() < SAME_BUT_FOR, "two runs")
    theirs, ours = paired(
        lambda: nilearn_job(*files), lambda: chunkglm_job(*files).compute(), repeats
    )
    floor = [decompression(data.runs) for _ in range(repeats)]
    job = "two runs 64x64x30x191 .nii.gz, 5 mm, AR(1), FFX, warm"
    over = [a / b for a, b in zip(ours, floor, strict=True)]
    ratio = statistics.median(over)
    spread = f"{min(over):.2f}-{max(over):.2f}"
    return [
        ratio_row(job, theirs, ours, 8),
        Row("the same over igzip's time for the same files", statistics.median(floor),
            statistics.median(ours), "s", ratio, "<= 3", ratio <= 3, spread),
    ]  # fmt: skip


def drop_in_rows(data: Any, folder: Path, scratch: Path, repeats: int) -> list[Row]:
    """Nilearn's lines with its imports, and with chunkglm.nilearn's."""
    import nibabel as nib

    files = data.runs, data.designs, data.mask
    images = [nib.load(run) for run in data.runs]
    exact = [nib.Nifti1Image(np.asarray(i.dataobj, dtype=np.float64), i.affine) for i in images]
    sides = nilearn_job(exact, *files[1:]), nilearn_job(exact, *files[1:], drop_in=True)
    theirs, ours = (np.asarray(side[2].dataobj) for side in sides)
    off = np.abs(ours - theirs) > SAME_T_EXACT * np.abs(theirs).clip(1)
    refuse_unless(off.mean() < SAME_BUT_FOR, "chunkglm.nilearn")
    warm = paired(lambda: nilearn_job(*files), lambda: nilearn_job(*files, drop_in=True), repeats)
    peaks = [
        fresh_process(job=side, folder=str(folder), out=str(scratch / "maps"))[1]
        for side in ("nilearn", "drop-in")
    ]
    share = peaks[1] / peaks[0]
    return [
        ratio_row(f"the same lines of nilearn, {off.sum()} voxels on bin edges, warm", *warm, 7),
        Row("  peak memory of a whole process", *peaks, "MB", share, "<= 0.5", share <= 0.5),
    ]


def contrast_rows(data: Any, scratch: Path, repeats: int) -> list[Row]:
    """Contrasts after the first: of a stored fit beside a refit, and twenty beside one."""
    import pandas as pd
    from nilearn.glm.first_level import FirstLevelModel

    import chunkglm as cg

    run, path, mask = data.runs[0], data.designs[0], data.mask
    with np.load(path) as stored:
        design = pd.DataFrame(stored["X"], columns=list(stored["conditions"]))
    store = str(scratch / "fit.zarr")
    cg.fit(
        cg.open_run(run), design, mask=mask, smoothing_fwhm=SMOOTHING_FWHM, noise=cg.AR(1, bins=100)
    ).save(store, overwrite=True)

    def refit() -> Any:
        model = FirstLevelModel(mask_img=str(mask), smoothing_fwhm=SMOOTHING_FWHM)
        model.fit(str(run), design_matrices=design)
        return model.compute_contrast(CONTRAST, output_type="all")

    def reopened() -> Any:
        return cg.contrast(cg.open_fit(store), CONTRAST).compute()

    def whole(definition: Any) -> Any:
        fit = cg.fit(cg.open_run(run), design, mask=mask, smoothing_fwhm=SMOOTHING_FWHM)
        return cg.contrast(fit, definition).compute()

    t, found = np.asarray(refit()["stat"].dataobj), reopened()["stat"].to_numpy()
    inside = np.isfinite(found)
    off = np.abs(found[inside] - t[inside]) > SAME_T * np.abs(t[inside]).clip(1)
    refuse_unless(off.mean() < SAME_BUT_FOR, "contrast of a stored fit")
    weights = np.random.default_rng(0).standard_normal((20, len(design.columns)))
    twenty = {f"contrast {i}": row for i, row in enumerate(weights)}
    one, all_ = paired(lambda: whole(CONTRAST), lambda: whole(twenty), repeats)
    times = [b / a for a, b in zip(one, all_, strict=True)]
    ratio, spread = statistics.median(times), f"{min(times):.2f}-{max(times):.2f}"
    return [
        ratio_row(
            "a new contrast of a stored fit, beside a refit", *paired(refit, reopened, repeats), 50
        ),
        # Both columns are chunkglm's.
        Row("one run with 1 contrast, and with 20", statistics.median(one),
            statistics.median(all_), "s", ratio, "<= 1.3", ratio <= 1.3, spread),
    ]  # fmt: skip


def decompression(runs: Any) -> float:
    """Seconds to decompress the files, one after the other, with igzip alone."""
    from isal import igzip

    buffer = bytearray(1 << 22)
    start = time.perf_counter()
    for run in runs:
        with igzip.open(run, "rb") as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def work_alone(job: str, **where: str) -> None:
    """What a fresh process does; it prints its peak memory last."""
    if job == "fit":
        fit_alone(where["run"], where["design"], where["mask"])
    else:
        whole_job(job, Path(where["folder"]), Path(where["out"]))
    print(peak_megabytes())


def fit_alone(run: str, design: str, mask: str) -> None:
    """AR(1) fit and a contrast of one run."""
    import chunkglm as cg

    fit = cg.fit(cg.open_run(run), design, mask=mask, noise="ar1")
    cg.contrast(fit, "task")["z_score"].compute()


def whole_job(side: str, folder: Path, out: Path) -> None:
    """Imports, the two-run job, and its maps written."""
    base = folder / "nipy-data-0.2" / "data" / "fiac" / "fiac0"
    files = (
        [base / f"run{i}.nii.gz" for i in (1, 2)],
        [base / f"run{i}_design.npz" for i in (1, 2)],
        base / "mask.nii.gz",
    )
    out.mkdir(exist_ok=True)
    if side == "chunkglm":
        import chunkglm as cg

        cg.save(chunkglm_job(*files), out, prefix="chunkglm")
    else:
        warnings.simplefilter("ignore")
        maps = nilearn_job(*files, drop_in=side == "drop-in")
        for name, image in zip(("effect", "variance", "t", "z"), maps, strict=True):
            image.to_filename(out / f"{side}_{name}.nii.gz")


def peak_megabytes() -> float:
    """Peak resident memory of this process.

    A child's ``ru_maxrss`` begins at what its parent held when it was forked, so Linux's own
    high-water mark of the program is read where there is one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = next(s for s in status.read_text().splitlines() if s.startswith("VmHWM"))
        return int(found.split()[1]) / 2**10
    import resource

    per_megabyte = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_megabyte


def whole_rows(folder: Path, scratch: Path, repeats: int) -> list[Row]:
    """Wall time and peak memory of fresh processes."""
    sides = ("nilearn", "chunkglm")
    measured: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for counted in [False] + [True] * repeats:
        for side in sides:
            found = fresh_process(job=side, folder=str(folder), out=str(scratch / "maps"))
            if counted:
                measured[side].append(found)
    seconds, megabytes = (
        {side: [one[i] for one in measured[side]] for side in sides} for i in (0, 1)
    )
    shares = [b / a for a, b in zip(megabytes["nilearn"], megabytes["chunkglm"], strict=True)]
    share = statistics.median(shares)
    work = "the same, whole process with imports and maps written"
    return [
        ratio_row(work, seconds["nilearn"], seconds["chunkglm"], 3),
        Row("  its peak memory", statistics.median(megabytes["nilearn"]),
            statistics.median(megabytes["chunkglm"]), "MB", share, "<= 0.6", share <= 0.6,
            f"{min(shares):.2f}-{max(shares):.2f}"),
    ]  # fmt: skip


def medium_rows(folder: Path, repeats: int) -> list[Row]:
    """A run of 680 volumes: conversion, and a small mask from its store."""
    import chunkglm as cg

    make_long_run = load_script("make_long_run").make_long_run
    plain, design, brain, small = make_long_run(folder / "680", (*LONG_SPACE, 680), 20)
    packed = folder / "680" / "packed" / "bold.nii.gz"
    if not packed.exists():
        make_long_run(packed.parent, (*LONG_SPACE, 680), 20, ".nii.gz")
    store = folder / "680" / "bold.zarr"
    alone, converted = paired(
        lambda: decompression([packed]),
        lambda: cg.convert(packed, store, overwrite=True, progress=False),
        repeats,
    )
    name = "convert 64x76x64x680 .nii.gz; igzip alone beside it"
    rows = [ratio_row(name, alone, converted, 0.6)]
    epi = Path(__file__).resolve().parents[2] / "shared" / "data" / "epi" / "bold.nii.gz"
    if epi.exists():
        small_store = Path(cg.convert(epi, folder / "epi.zarr", overwrite=True, progress=False))
        raw = cg.open_run(epi).nbytes
        chunks = [p for p in small_store.glob("bold/c/**/*") if p.is_file()]
        stored = sum(p.stat().st_size for p in chunks)
        ratio = raw / stored
        rows.append(Row("its compression of a real run (raw, stored)", raw / 1e6, stored / 1e6,
                        "MB", ratio, ">= 5", ratio >= 5))  # fmt: skip
    whole, part = paired(
        lambda: fit_alone(str(store), str(design), str(brain)),
        lambda: fit_alone(str(store), str(design), str(small)),
        repeats,
    )
    shares = [b / a for a, b in zip(whole, part, strict=True)]
    share = statistics.median(shares)
    rows.append(Row("4,000 voxels from its store; the whole brain beside it",
                    statistics.median(whole), statistics.median(part), "s", share, "<= 0.3",
                    share <= 0.3, f"{min(shares):.2f}-{max(shares):.2f}"))  # fmt: skip
    assert plain.exists()
    return rows


def long_rows(folder: Path) -> list[Row]:
    """Peak memory of a run of 6,804 volumes, 4.2 GB, beside one of 680."""
    import chunkglm as cg

    make_long_run = load_script("make_long_run").make_long_run
    rows = []
    runs = {}
    for n_scans in (680, 6804):
        where = folder / str(n_scans)
        found = (where / "bold.nii", where / "design.csv", where / "mask.nii.gz")
        if not all(path.exists() for path in found):
            make_long_run(where, (*LONG_SPACE, n_scans), 20)
        cg.convert(found[0], where / "long.zarr", overwrite=True, progress=False)
        runs[n_scans] = (found, where / "long.zarr")
    for kind in (".nii", "store"):
        peaks = {}
        for n_scans, (found, store) in runs.items():
            run = str(found[0] if kind == ".nii" else store)
            _, peaks[n_scans] = fresh_process(
                job="fit", run=run, design=str(found[1]), mask=str(found[2])
            )
        growth = peaks[6804] / peaks[680]
        work = f"peak of 64x76x64x6804, {kind}; of 680 volumes beside it"
        low, high = peaks[680], peaks[6804]
        rows.append(Row(work, low, high, "MB", growth, "<= 1.1", growth <= 1.1))
        share = peaks[6804] / 1500
        rows.append(Row("  beside 1,500 MB", 1500, peaks[6804], "MB", share, "<= 1", share <= 1))
    return rows


def load_script(name: str) -> Any:
    """Import a script that lies beside this one."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fresh_process(**job: str) -> tuple[float, float]:
    """Seconds and peak megabytes of a job in a process of its own."""
    command = [sys.executable, __file__, "--worker", json.dumps(job)]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - start
    refuse_unless(done.returncode == 0, f"the process for {job}")
    return seconds, float(done.stdout.split()[-1])


def refuse_unless(same: bool, work: str) -> None:
    """End rather than print a ratio of two different things."""
    if not same:
        sys.exit(f"{work}: the two sides do not give the same numbers; no ratio is printed")


if __name__ == "__main__":
    main()
