"""Everything a page shows computed in one pass, and the numbers that its tables hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from chunkglm._types import AnyArray
from chunkglm.glm.thresholding import clusters, threshold
from chunkglm.kernels.level import CONSTANT, ESTIMATED, EXPLAINED, NOT_FINITE
from chunkglm.reporting.sources import Source
from chunkglm.schema import SPACE

_OF_MAPS = ("z_score", "stat", "effect_size", "n_runs", "dof", "voxel_status")
_QUALITY = ("mean", "tsnr", "ar")

# Why voxels of the mask have no estimate; the rest needs no line.
LOST = {
    CONSTANT: "constant over time",
    NOT_FINITE: "not finite",
    EXPLAINED: "explained wholly by the design",
    8: "no run counts",
    9: "too little left after runs were taken out",
}


@dataclass(frozen=True, slots=True)
class Heights:
    """How maps are thresholded, as `threshold` takes it."""

    alpha: float = 0.001
    height_control: Any = "fpr"
    threshold: float | None = None
    cluster_threshold: float = 0
    two_sided: bool | None = None

    def options(self) -> dict[str, Any]:
        """Arguments of `threshold`."""
        return {
            "alpha": self.alpha,
            "height_control": self.height_control,
            "threshold": self.threshold,
            "cluster_threshold": self.cluster_threshold,
            "two_sided": self.two_sided,
        }

    def told(self) -> str:
        """Say what voxels survive."""
        if self.height_control is None:
            return f"a height of z = {self.threshold:g}"
        said = {
            "fdr": f"a false discovery rate of {self.alpha:g}",
            "bonferroni": f"p < {self.alpha:g}, Bonferroni-corrected over voxels",
        }
        return said.get(self.height_control, f"p < {self.alpha:g}, uncorrected")


@dataclass(frozen=True, slots=True)
class ContrastResult:
    """Maps of one contrast in memory, thresholded."""

    name: str
    maps: xr.Dataset
    thresholded: AnyArray  # (x, y, z)
    height: float  # z from which voxels survive, infinite when none can
    two_sided: bool
    n_tests: int
    table: pd.DataFrame
    runs: Mapping[str, AnyArray]  # z of each run, float32

    @property
    def z(self) -> AnyArray:
        """Z of the combined runs, (x, y, z)."""
        return np.asarray(self.maps["z_score"].to_numpy())

    @property
    def n_surviving(self) -> int:
        """Voxels that survive."""
        return int((np.nan_to_num(self.thresholded) != 0).sum())


@dataclass(frozen=True, slots=True)
class Quality:
    """Maps of the signal and its noise, mean over runs, and medians of each run."""

    mean: AnyArray | None = None
    tsnr: AnyArray | None = None
    ar: AnyArray | None = None  # lag 1
    medians: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by run


@dataclass(frozen=True, slots=True)
class Computed:
    """What a page shows."""

    contrasts: Sequence[ContrastResult]
    quality: Quality
    background: AnyArray | None
    background_is: str
    n_runs: AnyArray | None  # (x, y, z), where maps were combined
    n_most: int
    lost: Mapping[str, int]  # voxels without an estimate, by reason


def compute(source: Source, heights: Heights) -> Computed:
    """Compute all maps of a page together: what they share is done once."""
    lazy = _together(source)
    done = lazy.compute()
    contrasts = [
        _contrast_result(name, _maps_back(done, f"{i}", maps), source, done, i, heights)
        for i, (name, maps) in enumerate(source.maps.items())
    ]
    first = contrasts[0].maps
    quality = _quality(source, done)
    background: AnyArray | None = None
    said = source.background_is
    if "background" in done:
        background = done["background"].to_numpy().astype(np.float32)
    elif quality.mean is not None:
        background, said = quality.mean, "the mean over time of the runs"
    n_runs = first["n_runs"].to_numpy() if "n_runs" in first else None
    status = first["voxel_status"].to_numpy() if "voxel_status" in first else np.zeros(0, int)
    lost = {why: int((status == code).sum()) for code, why in LOST.items()}
    return Computed(
        contrasts,
        quality,
        background,
        said,
        n_runs,
        int(np.nanmax(n_runs, initial=0)) if n_runs is not None else 1,
        {why: count for why, count in lost.items() if count},
    )


def _together(source: Source) -> xr.Dataset:
    """One Dataset of all that is shown, so that one computation makes it."""
    found: dict[str, xr.DataArray] = {}
    for i, (name, maps) in enumerate(source.maps.items()):
        found |= {f"{i}:{v}": _bare(maps[v], f"{i}:") for v in _OF_MAPS if v in maps}
        for j, run in enumerate(source.runs.get(name, ())):
            found[f"{i}:run {j}"] = _bare(run.maps["z_score"]).astype(np.float32)
    for j, fit in enumerate(source.fits.values()):
        if fit.is_joined:
            continue
        of_fit = {"mean": fit.mean, "tsnr": fit.tsnr}
        if fit.noise.order:
            of_fit["ar"] = fit.ar.isel(lag=0)
        found |= {f"fit {j}:{n}": _bare(one).astype(np.float32) for n, one in of_fit.items()}
    if source.background is not None:
        image = source.background
        data = image.data if isinstance(image, xr.DataArray) else np.asarray(image)
        found["background"] = xr.DataArray(data, dims=SPACE)
    return xr.Dataset(found)


def _bare(values: xr.DataArray, prefix: str = "") -> xr.DataArray:
    """Values without coordinates, which all share; rows of F contrasts keep to themselves."""
    plain = values.variable
    names = {d: f"{prefix}{d}" for d in plain.dims if d not in SPACE}
    found = xr.DataArray(plain.data, dims=plain.dims).rename(names)
    return found.transpose(..., *SPACE)


def _maps_back(done: xr.Dataset, key: str, maps: xr.Dataset) -> xr.Dataset:
    """The maps of a contrast as they were, now in memory."""
    found = {v: done[f"{key}:{v}"].variable for v in _OF_MAPS if f"{key}:{v}" in done}
    coords = {d: maps.coords[d] for d in SPACE if d in maps.coords}
    return xr.Dataset(found, coords=coords, attrs=maps.attrs)


def _contrast_result(
    name: str, maps: xr.Dataset, source: Source, done: xr.Dataset, i: int, heights: Heights
) -> ContrastResult:
    options = heights.options()
    if maps.attrs["stat_type"] == "F":
        options["two_sided"] = None  # it has one tail
    found = threshold(maps, **options).compute()
    runs = {
        run.label: done[f"{i}:run {j}"].to_numpy()
        for j, run in enumerate(source.runs.get(name, ()))
    }
    return ContrastResult(
        name,
        maps,
        found["thresholded"].to_numpy(),
        float(found["threshold"]),
        bool(found.attrs["two_sided"]),
        int(found["n_tests"]),
        clusters(found),
        runs,
    )


def _quality(source: Source, done: xr.Dataset) -> Quality:
    medians: dict[str, dict[str, float]] = {}
    means: dict[str, AnyArray | None] = {}
    for name in _QUALITY:
        each = []
        for j, label in enumerate(source.fits):
            if f"fit {j}:{name}" not in done:
                continue
            values = done[f"fit {j}:{name}"].to_numpy()
            each.append(values)
            known = values[np.isfinite(values)]
            if known.size:
                medians.setdefault(label, {})[name] = float(np.median(known))
        means[name] = _mean(each)
    return Quality(**means, medians=medians)


def _mean(each: Sequence[AnyArray]) -> AnyArray | None:
    """Mean over runs of what is known; NaN where nothing is."""
    if not each:
        return None
    known = [np.isfinite(one) for one in each]
    count = np.sum(known, axis=0)
    total = np.sum([np.where(k, one, 0) for k, one in zip(known, each, strict=True)], axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def estimated(result: ContrastResult) -> int:
    """Voxels with an estimate."""
    maps = result.maps
    if "voxel_status" in maps:
        return int((maps["voxel_status"] == ESTIMATED).sum())
    return int(np.isfinite(result.z).sum())
