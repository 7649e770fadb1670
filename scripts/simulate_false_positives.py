"""Count false positives on noise alone, by noise model, beside nilearn.

Every voxel holds AR noise and no signal, so one test in a thousand should come out below p = .001.
Designs are random events and cosine drifts, made by nilearn; both sides get the same numbers.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from nilearn.glm.contrasts import compute_contrast
from nilearn.glm.first_level import make_first_level_design_matrix, run_glm
from numpy.typing import NDArray
from scipy.signal import lfilter
from threadpoolctl import threadpool_limits

import chunkglm as cg
from chunkglm import AR

Array = NDArray[np.float64]

NOMINAL = 1e-3

# Volumes and seconds between them.
RUNS = ((100, 2.0), (191, 2.5), (400, 1.0))
AR1 = tuple((rho,) for rho in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
AR2 = ((0.1, 0.1), (0.3, 0.2), (0.5, 0.2), (0.5, -0.2))

# Noise of neighbouring voxels is independent here. A Gaussian of 15 mm then averages over
# (4 pi s**2)**1.5 = 53 voxels of 6 mm, as many as it does over independent parts of a smoothed run.
VOXEL_SIZE, SMOOTH_FWHM = 6.0, 15.0
GRID = 22  # along each axis: 10,648 voxels a design

CONDITIONS = ("a", "b", "c")
CONTRASTS = (*CONDITIONS, *(f"{x} - {y}" for x, y in pairwise(CONDITIONS)))

# What nilearn's run_glm holds is several times what it is given: it gets this many voxels at once.
NILEARN_VOXELS = 11_000

# Volumes before the first, in which the noise forgets how it began: 0.7**200 is nothing.
BURN_IN = 200

# What is asked of the models, by rate over nominal: see `verdict`.
EXCESS_LEFT, MEAN_OFF, CASE_OFF = 0.6, 0.10, 0.25


class Method(NamedTuple):
    """One way to fit, under the name of its column."""

    name: str
    count: "Callable[[Simulated], Array]"  # false positives of each voxel


@dataclass(frozen=True)
class Simulated:
    """One run of noise and its design."""

    series: Array  # (x, y, z, T)
    design: pd.DataFrame


@dataclass(frozen=True)
class Case:
    """Noise of known coefficients in runs of one length, under several designs."""

    n_scans: int
    t_r: float
    coefficients: tuple[float, ...]
    confounds: int
    spread: float
    n_designs: int
    seed: tuple[int, ...]


@dataclass
class Row:
    """What was found in one case."""

    n_scans: int
    t_r: float
    coefficients: tuple[float, ...]
    n_regressors: list[int]
    rates: dict[str, float]  # false positives over nominal
    errors: dict[str, float]  # Monte Carlo standard errors
    by_design: dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ar2", action="store_true", help="noise of order 2 instead of 1")
    parser.add_argument("--designs", type=int, default=5, help="a case, 10,648 voxels each")
    parser.add_argument("--quick", action="store_true", help="one design a case")
    parser.add_argument("--confounds", type=int, default=0, help="random walks in each design")
    parser.add_argument("--spread", type=float, default=0.0, help="of the first coefficient, +-")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the table and its settings here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    order, methods = (2, ar2_methods()) if options.ar2 else (1, ar1_methods())
    n_designs = 1 if options.quick else options.designs
    settings = {
        "order": order,
        "designs a case": n_designs,
        "voxels a design": GRID**3,
        "contrasts": len(CONTRASTS),
        "confounds": options.confounds,
        "spread": options.spread,
        "seed": options.seed,
        "packages": f"chunkglm {version('chunkglm')}, nilearn {version('nilearn')}",
    }
    print("\n".join(f"{key:<16}{value}" for key, value in settings.items()))
    print("\n" + heading(methods))
    rows = []
    begun = time.perf_counter()
    for n_scans, t_r in RUNS:
        for coefficients in AR2 if options.ar2 else AR1:
            seed = (options.seed, n_scans, *(round(1000 * (c + 1)) for c in coefficients))
            case = Case(
                n_scans, t_r, coefficients, options.confounds, options.spread, n_designs, seed
            )
            row = run_case(case, methods)
            rows.append(row)
            print(line(row), flush=True)
    print(mean_line(rows))
    findings = [] if options.ar2 else verdict(rows)  # asked of AR(1) alone
    print("\n" + "".join(f"{one}\n" for one in findings) + f"{time.perf_counter() - begun:.0f} s")
    if options.json:
        found = {"settings": settings, "rows": [asdict(row) for row in rows], "found": findings}
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def ar1_methods() -> tuple[Method, ...]:
    return (
        Method("nilearn", by_nilearn("ar1")),
        Method("plain", by_chunkglm(AR(1))),
        Method("corrected", by_chunkglm(AR(1, corrected=True))),
        Method("+ stationary", by_chunkglm(AR(1, corrected=True, initial="stationary"))),
        Method("+ smoothed", by_chunkglm(AR(1, corrected=True, smooth_fwhm=SMOOTH_FWHM))),
    )


def ar2_methods() -> tuple[Method, ...]:
    return (
        Method("nilearn ar1", by_nilearn("ar1")),
        Method("nilearn", by_nilearn("ar2")),
        Method("plain", by_chunkglm(AR(2))),
        Method("corrected", by_chunkglm(AR(2, corrected=True))),
        Method("+ stationary", by_chunkglm(AR(2, corrected=True, initial="stationary"))),
        Method("+ smoothed", by_chunkglm(AR(2, corrected=True, smooth_fwhm=SMOOTH_FWHM))),
        Method("corrected ar1", by_chunkglm(AR(1, corrected=True))),
    )


def by_chunkglm(noise: AR) -> Callable[[Simulated], Array]:
    def count(run: Simulated) -> Array:
        dims = ("x", "y", "z", "time")
        attrs = {"affine": np.diag([VOXEL_SIZE] * 3 + [1.0]).tolist()}
        series = xr.DataArray(run.series, dims=dims, attrs=attrs)
        fitted = cg.fit(series, run.design, noise=noise, scaling=None)
        p = cg.contrast(fitted, {name: name for name in CONTRASTS})["p_value"].to_numpy()
        return in_both_tails(p.reshape(len(CONTRASTS), -1)).sum(axis=0)

    return count


def by_nilearn(noise: str) -> Callable[[Simulated], Array]:
    def count(run: Simulated) -> Array:
        series = run.series.reshape(-1, run.series.shape[-1]).T
        X = run.design.to_numpy()
        found = np.empty(series.shape[1])
        for first in range(0, series.shape[1], NILEARN_VOXELS):
            part = slice(first, first + NILEARN_VOXELS)
            labels, results = run_glm(series[:, part], X, noise_model=noise, random_state=0)
            found[part] = sum(
                in_both_tails(compute_contrast(labels, results, weights).p_value())
                for weights in map(weights_of, CONTRASTS, [run.design] * len(CONTRASTS))
            )
        return found

    return count


def weights_of(expression: str, design: pd.DataFrame) -> Array:
    positive, _, negative = expression.partition(" - ")
    return np.array([float(c == positive) - float(c == negative) for c in design.columns])


def in_both_tails(p: Array) -> Array:
    """Two one-sided tests per voxel: of the contrast, and of its opposite."""
    return (p < NOMINAL) * 1.0 + (p > 1.0 - NOMINAL)


def run_case(case: Case, methods: Sequence[Method]) -> Row:
    counts: dict[str, list[Array]] = {method.name: [] for method in methods}
    n_regressors = []
    for run in simulate(case):
        n_regressors.append(run.design.shape[1])
        for method in methods:
            counts[method.name].append(method.count(run))
    expected = 2 * len(CONTRASTS) * NOMINAL  # false positives of a voxel
    joined = {name: np.concatenate(parts) / expected for name, parts in counts.items()}
    return Row(
        case.n_scans,
        case.t_r,
        case.coefficients,
        n_regressors,
        {name: float(c.mean()) for name, c in joined.items()},
        # Tests of one voxel are not independent of one another; voxels are.
        {name: float(c.std() / np.sqrt(c.size)) for name, c in joined.items()},
        {name: [float(c.mean() / expected) for c in parts] for name, parts in counts.items()},
    )


def simulate(case: Case) -> Iterator[Simulated]:
    shape = (GRID, GRID, BURN_IN + case.n_scans)
    for child in np.random.SeedSequence(case.seed).spawn(case.n_designs):
        rng = np.random.default_rng(child)
        design = make_design(case, rng)
        series = np.empty((GRID, *shape[:2], case.n_scans))
        # Along the first axis the first coefficient rises and falls, over more than smoothing sees.
        waves = case.spread * np.sin(2 * np.pi * np.arange(GRID) / GRID)
        for plane, wave in zip(series, waves, strict=True):
            drawn = rng.standard_normal(shape)
            first, *others = case.coefficients
            filter_ = [1.0, -first - wave, *(-c for c in others)]
            plane[:] = lfilter([1.0], filter_, drawn)[..., BURN_IN:]
        yield Simulated(series, design)


def make_design(case: Case, rng: np.random.Generator) -> pd.DataFrame:
    """Events of three conditions in random order, fast or slow, short or long; cosine drifts."""
    n_scans, t_r = case.n_scans, case.t_r
    shortest, longest = ((2.5, 6.0), (6.0, 14.0))[rng.integers(2)]
    end = n_scans * t_r - 10.0
    onsets = 4.0 + np.cumsum(rng.uniform(shortest, longest, int(end / shortest)))
    onsets = onsets[onsets < end]
    # In turn, then shuffled: every condition has its share of the events.
    conditions = rng.permutation([CONDITIONS[i % 3] for i in range(onsets.size)])
    events = pd.DataFrame(
        {"onset": onsets, "duration": rng.choice([0.5, 1.0, 3.0]), "trial_type": conditions}
    )
    walks = rng.standard_normal((n_scans, case.confounds)).cumsum(axis=0)
    return make_first_level_design_matrix(
        (np.arange(n_scans) + 0.5) * t_r,
        events,
        add_regs=walks - walks.mean(axis=0) if case.confounds else None,
        hrf_model=("spm", "glover")[rng.integers(2)],
        drift_model="cosine",
        high_pass=rng.choice([0.01, 1 / 128]),
    )


def heading(methods: Sequence[Method]) -> str:
    names = "".join(f"{method.name:>16}" for method in methods)
    return f"{'T':>4}  {'coefficients':<14}{'columns':<12}{names}"


def line(row: Row) -> str:
    coefficients = " ".join(f"{c:g}" for c in row.coefficients)
    columns = f"{min(row.n_regressors)}-{max(row.n_regressors)}"
    cells = "".join(f"{row.rates[n]:>9.3f} ±{row.errors[n]:.3f}" for n in row.rates)
    return f"{row.n_scans:>4}  {coefficients:<14}{columns:<12}{cells}"


def mean_line(rows: Sequence[Row]) -> str:
    means = "".join(
        f"{np.mean([r.rates[n] for r in rows]):>9.3f} " + " " * 6 for n in rows[0].rates
    )
    return f"{'mean':<32}{means}"


def verdict(rows: Sequence[Row]) -> list[str]:
    """What was asked for and what was seen, one line each."""
    left = [
        max((row.rates["corrected"] - 1) / (row.rates["nilearn"] - 1), 0.0)
        if row.rates["nilearn"] > 1
        else np.nan
        for row in rows
    ]
    smoothed = np.array([row.rates["+ smoothed"] for row in rows])
    mean, worst = abs(smoothed.mean() - 1), np.abs(smoothed - 1).max()
    return [
        f"corrected: {np.nanmax(left):.2f} of nilearn's excess in the worst case, "
        f"{np.nanmean(left):.2f} on average (asked: {EXCESS_LEFT} in each): "
        f"{'yes' if np.nanmax(left) <= EXCESS_LEFT and not np.isnan(left).any() else 'NO'}",
        f"+ smoothed: {100 * mean:.1f} % off nominal on average (asked: {100 * MEAN_OFF:.0f}), "
        f"{100 * worst:.1f} % in the worst case (asked: {100 * CASE_OFF:.0f}): "
        f"{'yes' if mean <= MEAN_OFF and worst <= CASE_OFF else 'NO'}",
    ]


if __name__ == "__main__":
    # K-means' threads spin while they wait: on a machine that does other things, most of the time.
    with threadpool_limits(1, user_api="openmp"):
        main()
