"""Simulate a study: N subjects of R runs with events, a table of them and a model.

    python scripts/make_study.py FOLDER --subjects 60 --runs 2 --shape 32 32 20 120

One run is held in memory at a time. Conditions A and B alternate; within a ball in the middle B
raises the signal by 1 percent more than A, elsewhere they have one response.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from chunkglm.design import design_from_events
from chunkglm.io.images import write_image

T_R = 2.0
BLOCK = 20.0  # seconds of a condition, and of the rest after it
NOISE = 1.5  # percent of the mean
RHO = 0.3
COMMON, DIFFERENCE = 0.6, 1.0  # percent of the mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subjects", type=int, default=60)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--shape", type=int, nargs=4, default=(32, 32, 20, 120))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    make_study(args.folder, args.subjects, args.runs, tuple(args.shape), args.seed)


def make_study(
    folder: Path, n_subjects: int, n_runs: int, shape: tuple[int, int, int, int], seed: int = 0
) -> tuple[Path, Path]:
    """Write images, ``runs.csv`` and ``model.toml``; return the paths of the two."""
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    inside = _distance(shape[:3]) < 0.9
    active = _distance(shape[:3]) < 0.3
    write_image(folder / "mask.nii.gz", inside.astype(np.uint8), affine)
    events = _events(shape[3])
    events.to_csv(folder / "events.tsv", sep="\t", index=False)
    design = design_from_events(events, n_scans=shape[3], t_r=T_R)
    rows = []
    width = max(2, len(str(n_subjects)))
    for i in range(n_subjects):
        for j in range(n_runs):
            path = Path(f"sub-{i + 1:0{width}d}") / f"sub-{i + 1:0{width}d}_run-{j + 1}_bold.nii.gz"
            (folder / path).parent.mkdir(exist_ok=True)
            rng = np.random.default_rng([seed, i, j])
            write_image(folder / path, _series(rng, shape, design, inside, active), affine)
            rows.append({"subject": f"{i + 1:0{width}d}", "run": j + 1, "bold": path})
    table = pd.DataFrame(rows).assign(events="events.tsv", mask="mask.nii.gz", t_r=T_R)
    table.to_csv(folder / "runs.csv", index=False)
    (folder / "model.toml").write_text('[contrasts]\nBminusA = "B - A"\nmean = "(A + B) / 2"\n')
    return folder / "runs.csv", folder / "model.toml"


def _distance(shape: tuple[int, ...]) -> np.ndarray:
    """From the middle, as a fraction of the half axes."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.sqrt(sum(a**2 for a in axes))


def _events(n_scans: int) -> pd.DataFrame:
    onsets = np.arange(0, n_scans * T_R - BLOCK, 2 * BLOCK)
    kinds = np.resize(["A", "B"], len(onsets))
    return pd.DataFrame({"onset": onsets, "duration": BLOCK, "trial_type": kinds})


def _series(
    rng: np.random.Generator,
    shape: tuple[int, int, int, int],
    design: pd.DataFrame,
    inside: np.ndarray,
    active: np.ndarray,
) -> np.ndarray:
    """AR(1) noise and responses about a mean of 1000, int16."""
    noise = rng.standard_normal((shape[3], *shape[:3]), dtype=np.float32)
    for t in range(1, shape[3]):
        noise[t] += RHO * noise[t - 1]
    signal = NOISE * np.sqrt(1 - RHO**2) * noise
    a, b = design["A"].to_numpy(), design["B"].to_numpy()
    signal += (COMMON * (a + b)).astype(np.float32)[:, None, None, None]
    signal[:, active] += (DIFFERENCE * b).astype(np.float32)[:, None]
    values = np.where(inside, 10 * (100 + signal), 0)
    return np.moveaxis(np.rint(values).astype(np.int16), 0, -1)


if __name__ == "__main__":
    main()
