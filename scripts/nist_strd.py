"""Digits reached on NIST's Statistical Reference Datasets, beside the digits asked for.

Each dataset is fitted by `chunkglm.fit` as a run of one voxel, from a numpy array, from dask arrays
of one volume a chunk and of seven, and as one of many voxels. Digits are those of the worst
coefficient, ``-log10(|found - exact| / |exact|)`` (absolute where the exact value is 0), at most
16.

    python scripts/nist_strd.py [FOLDER]

FOLDER holds one JSON file for each dataset: data and exact solutions as decimal strings. By default
it is ``../shared/data/strd`` beside the project. Exits with 1 where digits are missing.
"""

import json
import sys
import warnings
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

import chunkglm as cg

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "strd"

# Digits of the worst coefficient, the worst standard error and the residual sum of squares. What
# the design explains wholly has no residual sum to have digits of.
LINEAR: dict[str, tuple[float, float, float | None]] = {
    "Norris": (12, 12, 12),
    "Pontius": (12, 12, 12),
    "NoInt1": (13, 13, 13),
    "NoInt2": (13, 13, 13),
    "Longley": (10.5, 11.5, 11.5),
    "Wampler1": (9, 9, None),
    "Wampler2": (12, 12, None),
    "Wampler3": (8.5, 12, 13),
    "Wampler4": (6.5, 12, 13),
    "Wampler5": (5, 12, 13),
    "Filip": (6.5, 7, 7),
}
# Of F; the last sets hold data of 13 digits that differ in the last.
ANOVA = {f"SmLs0{i}t": digits for i, digits in enumerate([12.5] * 3 + [10] * 3 + [4] * 3, 1)}
# No digits are asked of these.
ANOVA |= {"SiRstvt": 0.0, "AtmWtAgt": 0.0}

MOST = 16.0
FORMS = ("numpy", "dask, 1 a chunk", "dask, 7 a chunk", "dask, of 500 voxels")


class Row(NamedTuple):
    """What one dataset gives in one form."""

    name: str
    form: str
    found: tuple[float | None, ...]
    asked: tuple[float | None, ...]

    @property
    def reached(self) -> bool:
        """Whether every digit asked for is there."""
        pairs = zip(self.found, self.asked, strict=True)
        return all(a is None or (f is not None and f >= a) for f, a in pairs)


def digits(found: float, exact: str) -> float:
    """Digits in which a number agrees with the exact one."""
    if not np.isfinite(found):
        return 0.0
    value = Decimal(exact)
    off = abs(Decimal(float(found)) - value)
    off = off / abs(value) if value else off
    return min(MOST, -float(off.log10())) if off else MOST


def as_run(y: Any, form: str) -> tuple[xr.DataArray, int]:
    """Return the series as a run, and which voxel of it holds them."""
    series, voxel = y[None], 0
    if "voxels" in form:
        # Among noise of another level and size.
        rng = np.random.default_rng(0)
        series = rng.normal(1e3, 20.0, size=(500, y.size))
        series[voxel := 321] = y
    run = xr.DataArray(
        series[:, None, None],
        dims=("x", "y", "z", "time"),
        attrs={"affine": np.eye(4).tolist()},
    )
    if form.startswith("dask"):
        run = run.chunk({"time": 1 if "1 a" in form else 7})
    return run, voxel


def at(values: xr.DataArray, voxel: int) -> float:
    """Compute a map at one voxel."""
    return float(values[voxel, 0, 0].compute())


def linear(name: str, data: dict[str, Any], form: str) -> Row:
    """Fit one set of the linear ones."""
    design = pd.DataFrame(np.array(data["X"], dtype=float), columns=data["columns"])
    run, v = as_run(np.array(data["y"], dtype=float), form)
    fit = cg.fit(run, design, noise="ols", scaling=None).load()
    beta = fit.beta[:, v, 0, 0].to_numpy()
    variances = [at(cg.contrast(fit, {c: 1.0})["effect_variance"], v) for c in design]
    rss: float | None = at(fit.sigma2, v) * fit.dof
    if at(fit.voxel_status, v) == 4:
        # The design explains all: there is no variance, and statistics are refused. Standard errors
        # are then taken from what is left.
        left = float((fit.residuals(run)[v, 0, 0] ** 2).sum().compute())
        rows = fit.factor.contrast_in_basis(np.eye(design.shape[1]))
        variances, rss = list(left / fit.dof * (rows**2).sum(axis=1)), None
    exact = data["exact"]
    found = (
        min(map(digits, beta, exact["beta"])),
        min(map(digits, np.sqrt(variances), exact["se_beta"])),
        None if rss is None else digits(rss, exact["ss_resid"]),
    )
    return Row(name, form, found, LINEAR[name])


def anova(name: str, data: dict[str, Any], form: str) -> Row:
    """Fit one of the analyses of variance: F of the differences between groups."""
    n = data["groups"]
    groups = (np.array(data["group"])[:, None] == np.arange(n)).astype(float)
    design = pd.DataFrame(groups, columns=[f"group{i}" for i in range(n)])
    run, v = as_run(np.array(data["y"], dtype=float), form)
    fit = cg.fit(run, design, noise="ols", scaling=None)
    differences = np.eye(n)[:-1] - np.eye(n, k=1)[:-1]
    f = at(cg.contrast(fit, differences, stat_type="F")["stat"], v)
    return Row(name, form, (digits(f, data["exact"]["F"]),), (ANOVA[name],))


def rows(folder: Path) -> Iterator[Row]:
    """Fit every dataset in every form."""
    for names, fit_one in ((LINEAR, linear), (ANOVA, anova)):
        for name in names:
            data = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            for form in FORMS:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the condition number is the point
                    yield fit_one(name, data, form)


def main() -> int:
    """Print the table."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    if not folder.is_dir():
        print(f"{folder}: no such folder; pass that of the datasets")
        return 2
    print(f"{'dataset':10} {'form':20} {'digits':>18}   {'asked for':>18}")
    missing = 0
    for row in rows(folder):
        found, asked = (
            " ".join("    -" if d is None else f"{d:5.1f}" for d in numbers)
            for numbers in (row.found, row.asked)
        )
        missing += not row.reached
        told = "" if row.reached else "   missing"
        print(f"{row.name:10} {row.form:20} {found:>18}   {asked:>18}{told}")
    print("digits of the worst coefficient, standard error, residual sum of squares; or of F")
    print("every digit asked for is there" if not missing else f"{missing} rows lack digits")
    return int(missing > 0)


if __name__ == "__main__":
    sys.exit(main())
