"""Rows of AFNI's programs, where they are installed: the same run and design, no smoothing."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jobs import fiac_files, read_design
from benchmarks.rows import Row, faster_row, refuse_unless

# AFNI computes series in float32, and writes float32 maps.
SAME_T = 2e-3

# The contrast of the two-run job, by column.
WEIGHTS = {"DStSSp": 1, "DStDSp": 1, "SStSSp": -1, "SStDSp": -1}


def installed() -> bool:
    """Whether the programs are on PATH."""
    return all(shutil.which(name) for name in ("3dDeconvolve", "3dREMLfit"))


def deconvolve_command(
    run: Path, mask: Path, columns: Path, names: list[str], out: Path, *, stop: bool
) -> list[str]:
    """Least squares with the design's own columns, all as stimuli and none added.

    Parameters
    ----------
    run, mask : Path
    columns : Path
        The design as a table of numbers, a column per regressor.
    names : list of str
    out : Path
        Folder of the bucket (``ols.nii``) and of the matrix (``X.xmat.1D``).
    stop : bool
        Write the matrix only.
    """
    command = ["3dDeconvolve", "-input", str(run), "-mask", str(mask), "-polort", "-1",
               "-num_stimts", str(len(names))]  # fmt: skip
    for i, name in enumerate(names):
        command += ["-stim_file", str(i + 1), f"{columns}[{i}]", "-stim_label", str(i + 1), name]
    symbols = " ".join(f"{weight:+d}*{name}" for name, weight in WEIGHTS.items())
    command += ["-num_glt", "1", "-gltsym", f"SYM: {symbols}", "-glt_label", "1", "contrast"]
    command += ["-tout", "-nofullf_atall", "-x1D", str(out / "X.xmat.1D")]
    if stop:
        return [*command, "-x1D_stop"]
    return [*command, "-jobs", os.environ.get("OMP_NUM_THREADS", "1"), "-bucket",
            str(out / "ols.nii")]  # fmt: skip


def reml_command(run: Path, mask: Path, out: Path) -> list[str]:
    """ARMA(1,1) with the matrix that 3dDeconvolve wrote, its contrast included."""
    return ["3dREMLfit", "-matrix", str(out / "X.xmat.1D"), "-input", str(run), "-mask", str(mask),
            "-tout", "-Rbuck", str(out / "reml.nii")]  # fmt: skip


def afni_rows(folder: Path, scratch: Path, repeats: int) -> Iterator[Row]:
    """One run beside least squares, and seconds of ARMA(1,1), which is another noise model."""
    if not installed():
        print("AFNI is not on PATH: its rows (3dDeconvolve, 3dREMLfit) are left out", flush=True)
        return
    import chunkglm as cg

    runs, designs, mask = fiac_files(folder)
    design = read_design(designs[0])
    # AFNI reads labels up to a bracket or blank; columns are told apart by number anyway.
    names = [c if c in WEIGHTS else f"r{i}" for i, c in enumerate(design.columns)]
    columns = scratch / "design.1D"
    np.savetxt(columns, design.to_numpy(), fmt="%.17g")
    out = scratch / "afni"
    arguments = (runs[0], mask, columns, names, out)

    def ours(noise: Any) -> Any:
        fit = cg.fit(cg.open_run(runs[0]), design, mask=mask, noise=noise, scaling=None)
        return cg.contrast(fit, WEIGHTS).compute()

    def theirs(*commands: list[str]) -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, cwd=out)

    def timed(work: Any, *arguments: Any) -> float:
        start = time.perf_counter()
        work(*arguments)
        return time.perf_counter() - start

    ols = deconvolve_command(*arguments, stop=False)
    theirs(ols)
    refuse_unless(_same_t(out / "ols.nii", ours("ols")["stat"].to_numpy()), "3dDeconvolve")
    pairs = [(timed(theirs, ols), timed(ours, "ols")) for _ in range(repeats)]
    yield faster_row(
        "afni-ols", "one run, OLS, no smoothing; a process there, warm here",
        *map(list, zip(*pairs, strict=True)), 1, beside="3dDeconvolve",
    )  # fmt: skip
    reml = (deconvolve_command(*arguments, stop=True), reml_command(runs[0], mask, out))
    pairs = [(timed(theirs, *reml), timed(ours, "ar1")) for _ in range(repeats)]
    left, right = (float(np.median(side)) for side in zip(*pairs, strict=True))
    yield Row("afni-reml", "  ARMA(1,1) there, AR(1) here", left, right, "s", None, "", True,
              beside="3dREMLfit", note="another noise model: no ratio")  # fmt: skip


def _same_t(bucket: Path, t: Any) -> bool:
    """Whether the last volume of a bucket, t of the last contrast, is these values."""
    import nibabel as nib

    found = np.squeeze(nib.load(bucket).get_fdata())[..., -1]
    inside = np.isfinite(t) & (found != 0)
    if not inside.any():
        return False
    return bool(np.abs(found - t)[inside].max() < SAME_T * np.abs(t[inside]).max())
