"""The work that is measured, on both sides; imported by fresh processes, so nothing heavy here."""

import contextlib
import json
import runpy
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.rows import peak_megabytes

CONTRAST = "DStSSp + DStDSp - SStSSp - SStDSp"
FWHM = 5.0


def chunkglm_job(runs: Any, designs: Any, mask: Any) -> Any:
    """Two runs to fixed effects, lazy."""
    import chunkglm as cg

    maps = []
    for run, design in zip(runs, designs, strict=True):
        # nilearn's truncated coefficients, so that the numbers are the same.
        noise = cg.AR(1, bins=100)
        fit = cg.fit(cg.open_run(run), design, mask=mask, smoothing_fwhm=FWHM, noise=noise)
        maps.append(cg.contrast(fit, CONTRAST))
    return cg.fixed_effects(maps)


def nilearn_job(runs: Any, designs: Any, mask: Any, *, drop_in: bool = False) -> Any:
    """The job in nilearn's lines; `drop_in` changes the imports and nothing else."""
    import numpy as np

    if drop_in:
        from chunkglm.nilearn import FirstLevelModel, compute_fixed_effects
    else:
        from nilearn.glm.contrasts import compute_fixed_effects
        from nilearn.glm.first_level import FirstLevelModel

    effects, variances, dofs = [], [], []
    for run, path in zip(runs, designs, strict=True):
        design = read_design(path)
        model = FirstLevelModel(mask_img=str(mask), smoothing_fwhm=FWHM)
        model.fit(str(run) if isinstance(run, Path) else run, design_matrices=design)
        found = model.compute_contrast(CONTRAST, output_type="all")
        effects.append(found["effect_size"])
        variances.append(found["effect_variance"])
        dofs.append(len(design) - np.linalg.matrix_rank(design))
    return compute_fixed_effects(effects, variances, str(mask), dofs=dofs)


def read_design(path: Any) -> Any:
    """Read the design of a simulated run, as nilearn wants it."""
    import numpy as np
    import pandas as pd

    if str(path).endswith(".csv"):
        return pd.read_csv(path)
    with np.load(path) as stored:
        return pd.DataFrame(stored["X"], columns=list(stored["conditions"]))


def fiac_files(folder: Path) -> tuple[list[Path], list[Path], Path]:
    """Where `simulate_fiac` puts runs, designs and mask."""
    base = folder / "nipy-data-0.2" / "data" / "fiac" / "fiac0"
    return (
        [base / f"run{i}.nii.gz" for i in (1, 2)],
        [base / f"run{i}_design.npz" for i in (1, 2)],
        base / "mask.nii.gz",
    )


def two_runs(side: str, folder: str, out: str) -> dict[str, Any]:
    """Imports, the two-run job, and its maps written."""
    files, where = fiac_files(Path(folder)), Path(out)
    where.mkdir(exist_ok=True)
    if side == "chunkglm":
        import chunkglm as cg

        cg.save(chunkglm_job(*files), where, prefix="chunkglm")
        return {}
    warnings.simplefilter("ignore")
    maps = nilearn_job(*files, drop_in=side == "drop-in")
    for name, image in zip(("effect", "variance", "t", "z"), maps, strict=True):
        image.to_filename(where / f"{side}_{name}.nii.gz")
    return {}


def run_script(given: list[str]) -> None:
    """Run nilearn's lines as a file, in this process; what they print is not shown."""
    script = Path(__file__).resolve().parents[1] / "scripts" / "fixed_effects_nilearn_style.py"
    before = sys.argv
    sys.argv = [str(script), *given]
    try:
        with contextlib.redirect_stdout(None):
            runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = before


def script(given: list[str]) -> dict[str, Any]:
    """Nilearn's lines as a file, pictures included."""
    warnings.simplefilter("ignore")
    run_script(given)
    return {}


def one_run(
    side: str, run: str, design: str, mask: str, out: str, fwhm: float | None = None
) -> dict[str, Any]:
    """One run with AR(1) noise, and t of the regressor "task", written."""
    start = time.perf_counter()
    warnings.simplefilter("ignore")
    if side == "chunkglm":
        import chunkglm as cg

        noise = cg.AR(1, bins=100)
        fit = cg.fit(cg.open_run(run), design, mask=mask, noise=noise, smoothing_fwhm=fwhm)
        cg.save(cg.contrast(fit, "task"), out, prefix="chunkglm")
    else:
        from nilearn.glm.first_level import FirstLevelModel

        model = FirstLevelModel(mask_img=mask, smoothing_fwhm=fwhm)
        model.fit(run, design_matrices=read_design(design))
        Path(out).mkdir(exist_ok=True)
        model.compute_contrast("task", output_type="stat").to_filename(f"{out}/{side}_t.nii.gz")
    return {"seconds": time.perf_counter() - start}


JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    "two_runs": two_runs, "one_run": one_run, "script": script,
}  # fmt: skip


def work_alone(job: str, **arguments: Any) -> None:
    """What a fresh process does; it prints what it found last."""
    told = JOBS[job](**arguments)
    print(json.dumps({**told, "peak": peak_megabytes()}))
