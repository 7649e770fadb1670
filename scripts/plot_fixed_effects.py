"""Fixed effects of two runs: the whole analysis, as short as it is."""

import sys
from pathlib import Path

import dask

import chunkglm as cg

out = Path(sys.argv[1] if len(sys.argv) > 1 else "fixed-effects")
data = cg.simulate_fiac(out / "data")  # or cg.fetch_fiac(out / "data")

# Same or different sentence (SSt, DSt), same or different speaker (SSp, DSp).
contrast = "DStSSp + DStDSp - SStSSp - SStDSp"

maps = []
for run, design in zip(data.runs, data.designs, strict=True):
    fit = cg.fit(cg.open_run(run), design, mask=data.mask, noise="ar1", smoothing_fwhm=5)
    maps.append(cg.contrast(fit, contrast))
fixed = cg.fixed_effects(maps)

# Nothing has been computed so far. Together, each run is read once.
run_1, run_2, fixed = dask.compute(*maps, fixed)

background = cg.open_run(data.runs[0]).mean("time").to_numpy()
for name, found in {"run-1": run_1, "run-2": run_2, "fixed": fixed}.items():
    cg.save(found, out, prefix=f"{name}_contrast-DStMinusSSt")
    cg.plot_montage(
        found["z_score"].to_numpy(), background, out / f"{name}.png",
        title=f"{name}: DSt - SSt, z > 3", threshold=3, affine=found.attrs["affine"],
    )  # fmt: skip
    print(f"{name:<8}peak t {float(found['stat'].max()):.2f}")
