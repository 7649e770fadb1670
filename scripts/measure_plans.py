"""Compare planned with measured peak memory over a grid of work, each in a fresh process.

Prints a table; a row outside 0.4 to 1 of its plan is marked, and the command then ends with 1.
The runs are simulated into the folder given; the whole grid takes an hour, ``--quick`` the smallest
images.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

import chunkglm as cg

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))
from helpers.measure_peak import measured  # noqa: E402 - lies with the tests that use it

# Less than this would be a plan that frightens for nothing; more than 1 a promise broken.
LEAST, MOST = 0.4, 1.0

SHAPES = [
    ((20, 20, 10, 50), "int16"),
    ((64, 64, 30, 191), "int16"),
    ((64, 64, 30, 191), "float32"),
    ((64, 64, 30, 1000), "int16"),
    ((91, 109, 91, 60), "float32"),
    ((91, 109, 91, 150), "int16"),
]
CHUNKS: list[dict[str, int]] = [
    {"time": 50},
    {"time": 50, "x": 32},
    {"x": 16, "y": 16, "time": -1},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for the simulated runs, kept")
    parser.add_argument("--quick", action="store_true", help="only images below 100 MB")
    options = parser.parse_args()
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS.parent), before]))
    print(f"{'work':<66}{'peak':>7}{'plan':>7} MB   ratio")
    good = [show(label, job) for label, job in grid(options.folder, quick=options.quick)]
    print(f"{sum(good)} of {len(good)} between {LEAST} and {MOST}")
    sys.exit(not all(good))


def show(label: str, job: dict[str, Any]) -> bool:
    """Measure one row and print it; whether it is within bounds."""
    found = measured(**job)
    ratio = found.peak / found.planned
    good = LEAST <= ratio <= MOST
    megabytes = f"{found.peak / 1e6:7.0f}{found.planned / 1e6:7.0f}"
    print(f"{label:<66}{megabytes}{ratio:11.2f}{'' if good else '  NO'}", flush=True)
    return good


def grid(folder: Path, *, quick: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Conversions, one run and two, of each form, mask and smoothing; of arrays that were cut."""
    for shape, dtype in SHAPES:
        if quick and np.prod(shape) * np.dtype(dtype).itemsize > 1e8:
            continue
        runs = [make_run(folder, shape, dtype, i) for i in range(2)]
        size = f"{'x'.join(map(str, shape))} {dtype}"
        brain, small = make_masks(folder, shape[:3])
        for limit in (None, "250MB"):
            yield f"{size}: convert .nii.gz, limit {limit}", {
                "work": "convert", "runs": [runs[0][".nii.gz"]], "memory_limit": limit,
                "store": folder / "limited.zarr",
            }  # fmt: skip
        for form in (".nii", ".nii.gz", ".zarr"):
            two = [run[form] for run in runs]
            for name, mask in (("no mask", None), ("brain", brain), ("4,000 voxels", small)):
                for fwhm in (None, 5):
                    yield f"{size}: 2 runs {form}, {name}, {fwhm or 0} mm", {
                        "work": "fixed effects", "runs": two, "mask": mask, "smoothing_fwhm": fwhm,
                    }  # fmt: skip
            yield f"{size}: 1 run {form}, brain, 5 mm", {
                "work": "fit", "runs": two[:1], "mask": brain, "smoothing_fwhm": 5,
            }  # fmt: skip
        for chunks in CHUNKS:
            for form in (".nii", ".zarr"):
                cut = ", ".join(f"{k} {v}" for k, v in chunks.items())
                yield f"{size}: 1 run {form} as an array, {cut}, 5 mm", {
                    "work": "fit", "runs": [runs[0][form]], "mask": brain, "smoothing_fwhm": 5,
                    "chunks": chunks,
                }  # fmt: skip


def make_run(
    folder: Path, shape: tuple[int, int, int, int], dtype: str, seed: int
) -> dict[str, str]:
    """Write a run of noise in every form, unless it is there; paths by form."""
    base = folder / f"{'x'.join(map(str, shape))}_{dtype}_{seed}"
    paths = {form: base.with_name(base.name + form) for form in (".nii", ".nii.gz", ".zarr")}
    folder.mkdir(parents=True, exist_ok=True)
    if not paths[".zarr"].exists():
        rng = np.random.default_rng(seed)
        level = rng.uniform(500, 1500, shape[:3])
        data = np.empty(shape, dtype, order="F")
        for t in range(shape[3]):
            data[..., t] = level + rng.normal(0, 20, shape[:3])
        image = nib.Nifti1Image(data, np.diag([3.0, 3, 3, 1]), dtype=data.dtype)
        for form in (".nii", ".nii.gz"):
            nib.save(image, paths[form])
        cg.convert(paths[".nii"], paths[".zarr"], progress=False)
    return {form: str(path) for form, path in paths.items()}


def make_masks(folder: Path, shape: tuple[int, ...]) -> tuple[str, str]:
    """A ball of two thirds of the width, and the 4,000 voxels (or a tenth) in its middle."""
    grid_ = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    radius = np.sqrt((grid_**2).sum(axis=0))
    few = np.zeros(radius.size, dtype=bool)
    few[np.argsort(radius.ravel())[: min(4000, radius.size // 10)]] = True
    found = []
    for name, mask in (("brain", radius < 0.8), ("small", few.reshape(shape))):
        path = folder / f"{'x'.join(map(str, shape))}_{name}.npy"
        np.save(path, mask)
        found.append(str(path))
    return found[0], found[1]


if __name__ == "__main__":
    main()
