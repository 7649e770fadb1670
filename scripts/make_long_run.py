"""Make a run that need not fit in memory, in pieces; by default 64 x 76 x 64 x 6804 int16."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from chunkglm.io.images import make_header, write_image, write_image_blocks

T_R = 0.8
VOLUMES_AT_ONCE = 64
LEVEL = 8000.0
VOXEL = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", type=int, nargs=4, default=[64, 76, 64, 6804])
    parser.add_argument("--regressors", type=int, default=20)
    parser.add_argument("--suffix", choices=[".nii", ".nii.gz"], default=".nii")
    parser.add_argument("--level", type=float, default=LEVEL, help="mean signal in the brain")
    parser.add_argument("--voxel", type=float, default=VOXEL, help="edge of a voxel, mm")
    args = parser.parse_args()
    for path in make_long_run(
        args.folder, tuple(args.shape), args.regressors, args.suffix,
        level=args.level, voxel=args.voxel,
    ):  # fmt: skip
        print(path)


def make_long_run(
    folder: Path,
    shape: tuple[int, int, int, int],
    n_regressors: int,
    suffix: str = ".nii",
    *,
    level: float = LEVEL,
    voxel: float = VOXEL,
) -> tuple[Path, Path, Path, Path]:
    """Write ``bold``, ``design.csv``, ``mask`` (whole brain) and ``small-mask`` (4,000 voxels).

    Parameters
    ----------
    folder : Path
    shape : tuple of four ints
    n_regressors : int
    suffix : str
        ``.nii`` or ``.nii.gz``.
    level : float
        Mean signal in the brain, of which the noise is a hundredth, and 2 in air: it decides how
        well the run compresses.
    voxel : float
        Edge of a voxel, mm.

    Returns
    -------
    tuple of four paths
    """
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([voxel, voxel, voxel, 1.0])
    *space, n_scans = shape
    header = make_header(shape, np.int16, affine)
    header.set_zooms((voxel, voxel, voxel, T_R))
    header.set_xyzt_units("mm", "sec")
    brain, small = masks(tuple(space))
    bold, design = folder / f"bold{suffix}", folder / "design.csv"
    table = make_design(n_scans, n_regressors)
    write_image_blocks(bold, header, volumes(shape, brain, table["task"].to_numpy(), level))
    table.to_csv(design, index=False)
    found = [folder / "mask.nii.gz", folder / "small-mask.nii.gz"]
    for path, mask in zip(found, (brain, small), strict=True):
        write_image(path, mask.astype(np.uint8), affine)
    return bold, design, found[0], found[1]


def masks(space: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid that fills half of the volume, and 4,000 voxels of it close together."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in space), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in grid))
    brain = radius < 0.95
    nearest = np.sort(radius[brain])[min(4000, int(brain.sum())) - 1]
    return brain, radius <= nearest


def make_design(n_scans: int, n_regressors: int) -> pd.DataFrame:
    """A block design, slow cosines and a constant."""
    times = np.arange(n_scans)
    columns = {"task": (times // 20 % 2).astype(float)}
    for k in range(1, n_regressors - 1):
        columns[f"drift_{k}"] = np.cos(np.pi * k * (times + 0.5) / n_scans)
    return pd.DataFrame({**columns, "constant": 1.0})


def volumes(
    shape: tuple[int, int, int, int], brain: np.ndarray, task: np.ndarray, level: float
) -> Iterator[np.ndarray]:
    """Blocks of AR(1) noise about a mean image, with a response to the task in the brain."""
    rng = np.random.default_rng(0)
    *space, n_scans = shape
    mean = np.where(brain, level, level / 40).astype(np.float32)
    spread = np.maximum(0.01 * mean, 2.0)
    noise = np.zeros(space, dtype=np.float32)
    for first in range(0, n_scans, VOLUMES_AT_ONCE):
        stop = min(first + VOLUMES_AT_ONCE, n_scans)
        block = np.empty((*space, stop - first), dtype=np.int16, order="F")
        for t in range(first, stop):
            noise = 0.4 * noise + rng.standard_normal(space, dtype=np.float32) * spread
            block[..., t - first] = mean + noise + 0.005 * task[t] * mean * brain
        yield block


if __name__ == "__main__":
    main()
