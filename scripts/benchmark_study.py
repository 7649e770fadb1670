"""A study beside a loop of nilearn's classes over the same subjects, two processes each.

    python scripts/benchmark_study.py [--folder FOLDER] [--pairs 3]

Eight simulated subjects of two runs, 64x64x40x240 int16 `.nii.gz`, 5 mm, AR(1) with nilearn's
truncated coefficients, two contrasts, plain fixed effects, maps written by both sides (nilearn's
four a contrast, chunkglm's five). nilearn: `FirstLevelModel` and `compute_fixed_effects`, its
defaults else, the subjects shared out to a pool of two processes. Both are told to use one BLAS
thread a process. Processes are started, and have imported what they need, before the clock is; of
chunkglm's none needs nilearn, for the runs share a design.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import nibabel as nib
import numpy as np
import pandas as pd
from make_study import T_R, make_study

SHAPE = (64, 64, 40, 240)
SUBJECTS, RUNS, PROCESSES = 8, 2, 2
FWHM = 5.0
CONTRASTS = {"BminusA": "B - A", "mean": "(A + B) / 2"}
FASTER, SHARE_OF_MEMORY = 6.0, 1 / 3

# nilearn casts int16 images to float32: z then differs by 1e-5, but where that moves a
# coefficient across the edge of a bin.
SAME_Z, SAME_BUT_FOR = 1e-3, 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the simulated study is kept")
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        study = args.folder or Path(scratch) / "study"
        if not (study / "runs.csv").exists():
            make_study(study, SUBJECTS, RUNS, SHAPE)
        measure(study, Path(scratch), args.pairs)


def measure(study: Path, scratch: Path, pairs: int) -> None:
    seen: dict[str, list[tuple[float, float]]] = {"nilearn": [], "chunkglm": []}
    for _ in range(pairs):
        for side, work in (("nilearn", nilearn_side), ("chunkglm", chunkglm_side)):
            shutil.rmtree(scratch / side, ignore_errors=True)
            seen[side].append(work(study, scratch / side))
        refuse_unless_same(scratch)
    theirs, ours = ([s for s, _ in seen[side]] for side in seen)
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    print(f"{SUBJECTS} subjects x {RUNS} runs, {PROCESSES} processes: nilearn "
          f"{statistics.median(theirs):.1f} s, chunkglm {statistics.median(ours):.1f} s, ratio "
          f"{statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f}), goal >= "
          f"{FASTER:g}: {'yes' if statistics.median(ratios) >= FASTER else 'NO'}")  # fmt: skip
    theirs, ours = ([m for _, m in seen[side]] for side in seen)
    shares = [b / a for a, b in zip(theirs, ours, strict=True)]
    share = statistics.median(shares)
    reached = "yes" if share <= SHARE_OF_MEMORY else "NO"
    print(f"  peak memory of a worker: nilearn {statistics.median(theirs):.0f} MB, chunkglm "
          f"{statistics.median(ours):.0f} MB, share {share:.2f} ({min(shares):.2f}-"
          f"{max(shares):.2f}), goal <= 0.33: {reached}")  # fmt: skip


def nilearn_side(study: Path, out: Path) -> tuple[float, float]:
    """Seconds, and the larger peak of the two processes."""
    table = pd.read_csv(study / "runs.csv", dtype=str)
    jobs = [(study, out, s, list(rows["bold"])) for s, rows in table.groupby("subject")]
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        pool.map(ready, range(8 * PROCESSES), chunksize=1)
        start = time.perf_counter()
        pool.starmap(nilearn_subject, jobs, chunksize=1)
        seconds = time.perf_counter() - start
        peaks = pool.map(own_peak, range(8 * PROCESSES), chunksize=1)
    return seconds, max(peaks)


def ready(_: int) -> None:
    import nilearn.glm.first_level  # noqa: F401

    time.sleep(0.2)  # so that every process gets its share of these


def own_peak(_: int) -> float:
    time.sleep(0.05)
    return peak_megabytes(os.getpid())


def nilearn_subject(study: Path, out: Path, subject: str, runs: list[str]) -> None:
    from nilearn.glm.contrasts import compute_fixed_effects
    from nilearn.glm.first_level import FirstLevelModel

    warnings.simplefilter("ignore")
    mask = str(study / "mask.nii.gz")
    found: dict[str, list[Any]] = {name: [] for name in CONTRASTS}
    dofs = []
    for run in runs:
        model = FirstLevelModel(t_r=T_R, mask_img=mask, smoothing_fwhm=FWHM)
        model.fit(str(study / run), events=str(study / "events.tsv"))
        design = model.design_matrices_[0]
        dofs.append(len(design) - np.linalg.matrix_rank(design))
        for name, definition in CONTRASTS.items():
            found[name].append(model.compute_contrast(definition, output_type="all"))
    (out / subject).mkdir(parents=True)
    for name, maps in found.items():
        effects, variances = ([m[key] for m in maps] for key in ("effect_size", "effect_variance"))
        combined = compute_fixed_effects(effects, variances, mask, dofs=dofs)
        for stat, image in zip(("effect", "variance", "t", "z"), combined, strict=True):
            image.to_filename(out / subject / f"{name}_{stat}.nii.gz")


def chunkglm_side(study: Path, out: Path) -> tuple[float, float]:
    """Seconds, and the larger peak of the two workers."""
    import chunkglm as cg
    from chunkglm.study.engines import local_cluster

    model = {
        "contrasts": CONTRASTS, "smoothing_fwhm": FWHM, "noise": {"order": 1, "bins": 100},
        "save_group": False,
    }  # fmt: skip
    with local_cluster(PROCESSES) as client:
        client.run(lambda: __import__("chunkglm.study.jobs"))
        start = time.perf_counter()
        report = cg.run_study(study / "runs.csv", model, out, client=client, progress=False)
        seconds = time.perf_counter() - start
        peaks = [peak_megabytes(pid) for pid in client.run(os.getpid).values()]
    if report.failed:
        sys.exit(repr(report))
    return seconds, max(peaks)


def peak_megabytes(pid: int) -> float:
    """Most that a process ever held, as Linux tells."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(s for s in lines if s.startswith("VmHWM")).split()[1]) / 2**10


def refuse_unless_same(scratch: Path) -> None:
    """End rather than print a ratio of two different things."""
    for folder in sorted((scratch / "nilearn").iterdir()):
        for name in CONTRASTS:
            prefix = f"sub-{folder.name}_contrast-{name}_stat-z_statmap.nii.gz"
            ours = nib.load(scratch / "chunkglm" / f"sub-{folder.name}" / prefix).get_fdata()
            theirs = nib.load(folder / f"{name}_z.nii.gz").get_fdata()
            off = (np.abs(ours - theirs) > SAME_Z * np.abs(theirs).clip(1))[theirs != 0]
            if not off.size or off.mean() > SAME_BUT_FOR:
                sys.exit(f"{folder.name}, {name}: the two sides differ in {off.mean():.2%} of "
                         "voxels; no ratio is printed")  # fmt: skip


if __name__ == "__main__":
    main()
