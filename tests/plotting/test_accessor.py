import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers_lazy import lazily
from helpers_plotting import fit_runs, maps_of

import chunkglm as cg
from chunkglm.errors import MapsError


@pytest.fixture
def maps(tmp_path: Path) -> xr.Dataset:
    return cg.fixed_effects(maps_of(tmp_path))


@pytest.mark.parametrize(
    ("statement", "there"),
    [
        ("import chunkglm, xarray", False),
        ("import chunkglm, xarray; chunkglm.ChunkglmError", False),
        ("import chunkglm; chunkglm.open_run", True),
        ("from chunkglm import open_maps", True),
        ("import chunkglm.plotting", True),
        ("import chunkglm; chunkglm.plotting", True),
    ],
)
def test_accessor__is_registered_by_what_makes_datasets(statement: str, there: bool) -> None:
    code = f"{statement}\nimport sys, xarray\nprint(hasattr(xarray.Dataset, 'glm'))\n"
    code += "print([m for m in ('nilearn', 'matplotlib', 'zarr') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == [str(there), "[]"]
    assert done.stderr == ""


def test_to_nifti__holds_what_save_writes(maps: xr.Dataset, tmp_path: Path) -> None:
    images = maps.glm.to_nifti()
    assert set(images) == set(maps)
    cg.save(maps, tmp_path / "out", prefix="p")
    names = {"effect_size": "effect", "effect_variance": "variance", "stat": "t", "p_value": "p"}
    for variable, stat in {**names, "z_score": "z"}.items():
        written = nib.load(tmp_path / "out" / f"p_stat-{stat}_statmap.nii.gz")
        for image in (images[variable], maps.glm.to_nifti(variable)):
            np.testing.assert_array_equal(image.get_fdata(), written.get_fdata())
            np.testing.assert_array_equal(image.affine, written.affine)
            assert image.header == written.header
    assert images["voxel_status"].get_data_dtype() == np.int8
    np.testing.assert_array_equal(images["voxel_status"].dataobj, maps["voxel_status"])


def test_to_nifti__takes_single_maps_and_rows_as_volumes(tmp_path: Path) -> None:
    fit = fit_runs(tmp_path, 1)[0]
    rows = cg.contrast(fit, ["a", "b"]).glm.to_nifti()
    assert rows["effect_size"].shape == (9, 8, 7, 2)
    assert rows["effect_variance"].shape == (9, 8, 7, 4)
    beta = fit.beta.sel(regressor="b").glm.to_nifti()
    np.testing.assert_array_equal(
        beta.get_fdata(), np.nan_to_num(fit.beta.sel(regressor="b").to_numpy())
    )
    with pytest.raises(MapsError, match=r"isel\(regressor=0\)"):
        fit.beta.glm.to_nifti()
    q = cg.fdr(cg.contrast(fit, "a"))
    assert q.glm.to_nifti().shape == (9, 8, 7)
    with pytest.raises(MapsError, match="there are no maps"):
        xr.Dataset({"x": ("t", [1.0])}).glm.to_nifti()


def test_to_nifti__of_a_part_lies_where_the_part_lies(maps: xr.Dataset) -> None:
    whole, part = maps.glm.to_nifti("z_score"), maps.isel(x=slice(2, 6)).glm.to_nifti("z_score")
    np.testing.assert_array_equal(part.get_fdata(), whole.slicer[2:6].get_fdata())
    np.testing.assert_allclose(part.affine, whole.slicer[2:6].affine, atol=1e-5)


def test_threshold_and_clusters__are_those_of_the_library(maps: xr.Dataset) -> None:
    options = {"alpha": 0.05, "cluster_threshold": 2}
    with lazily():
        kept = maps.glm.threshold(**options)
    expected = cg.threshold(maps, **options)
    xr.testing.assert_identical(kept.compute(), expected.compute())
    table = cg.clusters(expected)
    assert len(table)
    pd.testing.assert_frame_equal(kept.glm.clusters(), table)
    pd.testing.assert_frame_equal(maps.glm.clusters(**options), table)
    with pytest.raises(MapsError, match="thresholded already; give alpha to threshold"):
        kept.glm.clusters(alpha=0.05)
