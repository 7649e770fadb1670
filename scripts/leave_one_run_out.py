"""A run left out of combined maps, from what was saved, beside a refit of the others.

    python scripts/leave_one_run_out.py [--data FOLDER] [--repeats 5]

For three inputs: six simulated runs of 64x64x30x191 as `.nii.gz`, smoothed by 5 mm; the same as
`.nii`, not smoothed; and twelve real runs of a slice (Haxby et al. 2001), where they lie beside the
project. The maps of each run, and those of all of them combined, are saved first. Then one run is
left out: `drop_runs` of maps that are opened anew, and a refit, which reads the other runs. Printed
are the largest difference of any map (effects and t in standard errors, variances relative, z
absolute), and the share of the refit's time, medians of pairs measured in turn.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import xarray as xr

import chunkglm as cg

SAME, SHARE = 1e-10, 0.05
HAXBY = Path(__file__).resolve().parents[2] / "shared" / "data" / "haxby"
HAXBY_T_R = 2.5
SUBJECTS = 3  # of two runs each


@dataclass(frozen=True)
class Case:
    """Runs of one subject, and how they are fitted."""

    name: str
    runs: list[Path]
    designs: list[Any]
    mask: Path
    contrast: str
    options: dict[str, Any]

    def maps(self, runs: list[int]) -> list[xr.Dataset]:
        """Contrasts of some of the runs, from their files; lazy."""
        return [
            cg.contrast(
                cg.fit(self.runs[i], self.designs[i], mask=self.mask, **self.options), self.contrast
            )
            for i in runs
        ]

    def without(self, left_out: int) -> list[int]:
        """All runs but one."""
        return [i for i in range(len(self.runs)) if i != left_out]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder for the simulated runs, kept")
    parser.add_argument("--repeats", type=int, default=5, help="timed pairs of each row")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"{'':<44}{'refit':>9}{'dropped':>10}{'share':>8}{'difference':>13}  reached")
    reached = True
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases(options.data or Path(scratch)):
            for weighted in (False, True):
                found = measure(case, Path(scratch) / "maps", options.repeats, weighted=weighted)
                reached &= found
    return 0 if reached else 1


def cases(folder: Path) -> list[Case]:
    simulated = [cg.simulate_fiac(folder / f"seed-{seed}", seed) for seed in range(SUBJECTS)]
    packed = [run for one in simulated for run in one.runs]
    designs = [design for one in simulated for design in one.designs]
    plain = [unpacked(run) for run in packed]
    contrast = "DStSSp + DStDSp - SStSSp - SStDSp"
    common: tuple[Any, ...] = (designs, simulated[0].mask, contrast)
    shape = "6 runs 64x64x30x191"
    found = [
        Case(f"{shape} .nii.gz, 5 mm", packed, *common, {"smoothing_fwhm": 5}),
        Case(f"{shape} .nii, not smoothed", plain, *common, {}),
    ]
    if HAXBY.is_dir():
        runs = sorted(HAXBY.glob("run-*/bold.nii.gz"))
        tables = [haxby_design(run.parent) for run in runs]
        name = f"{len(runs)} real runs 40x20x1x121 .nii.gz"
        mask = HAXBY / "mask.nii.gz"
        found.append(Case(name, runs, tables, mask, "face - house", {"t_r": HAXBY_T_R}))
    return found


def unpacked(run: Path) -> Path:
    """The same run without compression, beside it."""
    path = run.with_name(run.name.removesuffix(".gz"))
    if not path.exists():
        nib.load(run).to_filename(path)
    return path


def haxby_design(folder: Path) -> pd.DataFrame:
    from nilearn.glm.first_level import make_first_level_design_matrix

    times = np.arange(nib.load(folder / "bold.nii.gz").shape[3]) * HAXBY_T_R
    events = pd.read_csv(folder / "events.tsv", sep="\t")
    return make_first_level_design_matrix(times, events, drift_model="cosine", high_pass=1 / 128)


def measure(case: Case, folder: Path, repeats: int, *, weighted: bool) -> bool:
    """Save what is stored, leave a run out in both ways, and print a row."""
    shutil.rmtree(folder, ignore_errors=True)
    every = case.maps(list(range(len(case.runs))))
    for i, maps in enumerate(every):
        cg.save(maps, folder, prefix=f"run-{i}")
    cg.save(cg.fixed_effects(every, precision_weighted=weighted), folder, prefix="all")

    def refit(i: int) -> xr.Dataset:
        return cg.fixed_effects(case.maps(case.without(i)), precision_weighted=weighted).compute()

    def dropped(i: int) -> xr.Dataset:
        whole, part = (cg.open_maps(folder, prefix=p) for p in ("all", f"run-{i}"))
        return cg.drop_runs(whole, part).compute()

    off, seconds = 0.0, ([], [])
    for k in range(repeats + 1):
        i = k % len(case.runs)
        (theirs, a), (ours, b) = timed(refit, i), timed(dropped, i)
        off = max(off, difference(ours, theirs))
        if k:  # both are warm
            seconds[0].append(a), seconds[1].append(b)
    shares = [b / a for a, b in zip(*seconds, strict=True)]
    share = statistics.median(shares)
    reached = off <= SAME and share <= SHARE
    name = f"{case.name}{', weighted' if weighted else ''}"
    print(
        f"{name:<44}{statistics.median(seconds[0]):8.3f}s{statistics.median(seconds[1]):9.4f}s"
        f"{share:8.1%}{off:13.1e}  {'yes' if reached else 'NO'} "
        f"({min(shares):.1%}-{max(shares):.1%})",
        flush=True,
    )
    return reached


def timed(work: Callable[[int], xr.Dataset], i: int) -> tuple[xr.Dataset, float]:
    start = time.perf_counter()
    found = work(i)
    return found, time.perf_counter() - start


def difference(found: xr.Dataset, expected: xr.Dataset) -> float:
    """Largest difference of any map; infinite where one has a number and the other none."""
    variance = expected["effect_variance"]
    scales = {
        "effect_size": np.sqrt(variance),
        "effect_variance": variance,
        "stat": 1.0,
        "z_score": 1.0,
        "n_runs": 1.0,
        "dof": 1.0,
    }
    largest = 0.0
    for name, scale in scales.items():
        if not found[name].isnull().equals(expected[name].isnull()):
            return np.inf
        largest = max(largest, float((abs(found[name] - expected[name]) / scale).max()))
    return largest


if __name__ == "__main__":
    sys.exit(main())
