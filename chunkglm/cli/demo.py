"""The nilearn example, start to end: two runs, a contrast, fixed effects, a table, a report."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import dask
import numpy as np
import xarray as xr
from scipy.ndimage import binary_dilation, generate_binary_structure

from chunkglm._types import BoolArray, FloatArray
from chunkglm.datasets import FiacData, fetch_fiac, simulate_fiac
from chunkglm.glm import (
    Fit,
    contrast,
    convert,
    fit,
    fixed_effects,
    load_together,
    open_run,
    save,
)
from chunkglm.glm.masks import load_mask
from chunkglm.lazy.progress import progress_bar
from chunkglm.plotting import plot_montage
from chunkglm.reporting import report

CONTRAST = {"SStSSp": -1, "SStDSp": -1, "DStSSp": 1, "DStDSp": 1}
NAME = "contrast-DStMinusSSt"
SMOOTHING_FWHM = 5.0
THRESHOLD = 3.0
CLUSTER_THRESHOLD = 10  # voxels, of the report

# z above which 0.1 % of null voxels lie.
NOMINAL_Z, NOMINAL_SHARE = 3.09, 0.001

# Voxels that the smoothing kernel carries activation: 4 standard deviations at 3 mm.
REACH = 3

TITLES = {"run-1": "Run 1", "run-2": "Run 2", "fixed": "Fixed effects of both runs"}


def run_demo(out: Path, *, fiac: bool) -> None:
    """Run the demo and print what it found.

    Parameters
    ----------
    out : Path
        Folder for data, stores, maps and pictures.
    fiac : bool
        Download the real data set instead of simulating it.
    """
    out.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    with _timed("download" if fiac else "simulate two runs", seconds):
        data = fetch_fiac(out / "data") if fiac else simulate_fiac(out / "data")
    with _timed("convert to zarr", seconds):
        stores = [
            convert(run, out / f"run-{i}.zarr", overwrite=True)
            for i, run in enumerate(data.runs, start=1)
        ]
    with _timed("fit, contrast, fixed effects", seconds):
        fits, maps = _maps(stores, data)
    with _timed("write maps", seconds):
        for name, found in maps.items():
            save(found, out / "maps", prefix=f"{name}_{NAME}")
    peak_memory = _peak_megabytes()
    with _timed("draw pictures", seconds):
        pictures = _draw(maps, stores[0], data, out)
    with _timed("write report", seconds):
        page = _report(fits, maps, out)
    with _timed("the same with nilearn", seconds):
        beside = _nilearn_z(data)
    _print_table(maps, data, beside)
    click.echo()
    for stage, took in seconds.items():
        click.echo(f"{stage:<34}{took:8.2f} s")
    if peak_memory:
        click.echo(f"{'peak memory, nilearn not counted':<34}{peak_memory:8.0f} MB")
    click.echo(f"\nmaps      {out / 'maps'}")
    for picture in pictures:
        click.echo(f"picture   {picture}")
    click.echo(f"report    {page}")


def _peak_megabytes() -> float | None:
    """Peak resident memory of this process; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    per_megabyte = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_megabyte


@contextmanager
def _timed(stage: str, seconds: dict[str, float]) -> Iterator[None]:
    click.echo(f"{stage} ...")
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start


def _maps(stores: list[str], data: FiacData) -> tuple[list[Fit], dict[str, xr.Dataset]]:
    """Fits, and maps of each run and of both; each run is read once."""
    lazy = [
        # The plain coefficient is nilearn's, beside which the maps are shown.
        fit(open_run(store), design, mask=data.mask, noise="ar1", smoothing_fwhm=SMOOTHING_FWHM)
        for store, design in zip(stores, data.designs, strict=True)
    ]
    with progress_bar():
        fits = load_together(lazy)
    runs = [contrast(one, CONTRAST) for one in fits]
    computed = dask.compute(*runs, fixed_effects(runs))
    return list(fits), dict(zip(TITLES, computed, strict=True))


def _report(fits: list[Fit], maps: dict[str, xr.Dataset], out: Path) -> Path:
    *runs, fixed = maps.values()
    name = NAME.removeprefix("contrast-")
    return report(
        {name: fixed}, out / "report.html", runs={name: runs}, fits=fits,
        title="Different minus same sentence", height_control=None, threshold=THRESHOLD,
        cluster_threshold=CLUSTER_THRESHOLD,
    )  # fmt: skip


def _draw(maps: dict[str, xr.Dataset], store: str, data: FiacData, out: Path) -> list[Path]:
    run = open_run(store)
    active = None if data.activation is None else _truth(data, run.shape[:3])[0]
    subtitle = "" if active is None else ", simulated activation outlined"
    background = run.mean("time").compute().to_numpy()
    peak = max(float(m["z_score"].max()) for m in maps.values())
    return [
        plot_montage(
            found["z_score"].to_numpy(),
            background,
            out / f"{name}_{NAME}_z.png",
            title=f"{TITLES[name]}: different minus same sentence, z > {THRESHOLD:g}{subtitle}",
            threshold=THRESHOLD,
            vmax=max(peak, 1.25 * THRESHOLD),
            affine=np.asarray(run.attrs["affine"]),
            outline=active,
        )
        for name, found in maps.items()
    ]


def _nilearn_z(data: FiacData) -> FloatArray:
    """Nilearn's fixed-effects z map of the same files, (x, y, z)."""
    import warnings

    import pandas as pd
    from nilearn.glm.contrasts import compute_fixed_effects
    from nilearn.glm.first_level import FirstLevelModel

    from chunkglm.design import load_design

    effects, variances, dofs = [], [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for run, path in zip(data.runs, data.designs, strict=True):
            design = load_design(path)
            table = pd.DataFrame(design.values, columns=list(design.names))
            model = FirstLevelModel(mask_img=str(data.mask), smoothing_fwhm=SMOOTHING_FWHM)
            model.fit(str(run), design_matrices=table)
            weights = np.array([CONTRAST.get(name, 0.0) for name in design.names])
            found = model.compute_contrast(weights, output_type="all")
            effects.append(found["effect_size"])
            variances.append(found["effect_variance"])
            dofs.append(design.n_scans - np.linalg.matrix_rank(design.values))
        pooled = compute_fixed_effects(effects, variances, str(data.mask), dofs=dofs)
    return np.asarray(pooled[3].get_fdata())


def _print_table(maps: dict[str, xr.Dataset], data: FiacData, nilearn_z: FloatArray) -> None:
    click.echo(f"\n{'':<34}{'run 1':>10}{'run 2':>10}{'fixed effects':>16}{'nilearn':>10}")
    fixed_t = [float(found["stat"].max()) for found in maps.values()]
    click.echo(f"{'peak t':<34}{fixed_t[0]:10.2f}{fixed_t[1]:10.2f}{fixed_t[2]:16.2f}")
    z = [*(found["z_score"].to_numpy() for found in maps.values()), nilearn_z]
    peaks = [float(np.nanmax(one)) for one in z]
    click.echo(f"{'peak z':<34}{_row(peaks, '.2f')}")
    counts = [float((one > THRESHOLD).sum()) for one in z]
    click.echo(f"{f'voxels with z > {THRESHOLD:g}':<34}{_row(counts, '.0f')}")
    if data.activation is None:
        return
    active, far = _truth(data, z[0].shape)
    hits = [100 * float((one[active] > NOMINAL_Z).mean()) for one in z]
    click.echo(f"{f'activated voxels found, z > {NOMINAL_Z}':<34}{_row(hits, '.1f', ' %')}")
    false = [100 * float((one[far] > NOMINAL_Z).mean()) for one in z]
    click.echo(f"{f'voxels far from it, z > {NOMINAL_Z}':<34}{_row(false, '.4f', ' %')}")
    click.echo(f"{'  where nothing but noise gives':<34}{100 * NOMINAL_SHARE:.3f} %")


def _row(values: list[float], style: str, unit: str = "") -> str:
    texts = [format(value, style) + unit for value in values]
    return f"{texts[0]:>10}{texts[1]:>10}{texts[2]:>16}{texts[3]:>10}"


def _truth(data: FiacData, shape: tuple[int, ...]) -> tuple[BoolArray, BoolArray]:
    """Voxels that were activated, and voxels of the mask that the smoothing does not reach."""
    x, y, z = shape
    affine = open_run(data.runs[0]).attrs["affine"]
    grid = (x, y, z), np.asarray(affine), "the run"
    active = load_mask(data.activation, *grid)
    mask = load_mask(data.mask, *grid)
    near = binary_dilation(active, generate_binary_structure(3, 3), iterations=REACH)
    return active & mask, mask & ~near
