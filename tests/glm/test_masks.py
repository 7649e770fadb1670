"""Masks: taken as they are or refused, never resampled or guessed at."""

import gzip
from pathlib import Path
from typing import Any

import dask.array as da
import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from helpers_lazy import AFFINE, SHAPE, make_design, make_mask, one_line, write_run

import chunkglm as cg
from chunkglm.errors import ChunkglmError, ImageError, MaskError

DESIGN, MASK = make_design(), make_mask()
GRID = SHAPE[:3]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run.nii")


def voxels(run: Path, mask: Any) -> Any:
    return cg.fit(run, DESIGN, mask=mask).slabs.mask


def labelled(values: Any, **attrs: Any) -> xr.DataArray:
    return xr.DataArray(values, dims=("x", "y", "z"), attrs=attrs)


IN_MEMORY: dict[str, Any] = {
    "bool array": MASK,
    "uint8 array": MASK.astype("u1"),
    "0 and 255": MASK.astype("u1") * 255,
    "0 and 0.5": MASK * 0.5,
    "0 and -1": MASK * -1.0,
    "Fortran order": np.asfortranarray(MASK),
    "list": MASK.tolist(),
    "last axis of one": MASK[..., None],
    "image": nib.Nifti1Image(MASK.astype("u1"), AFFINE),
    "image with last axis of one": nib.Nifti1Image(MASK.astype("f4")[..., None], AFFINE),
    "DataArray": labelled(MASK),
    "DataArray with affine": labelled(MASK, affine=AFFINE.tolist()),
    "dask DataArray": labelled(da.from_array(MASK, chunks=2)),
    "transposed DataArray": labelled(MASK).transpose("z", "x", "y"),
    "affine with the noise of float32": nib.Nifti1Image(MASK.astype("u1"), AFFINE + 1e-7),
}


@pytest.mark.parametrize("mask", IN_MEMORY.values(), ids=IN_MEMORY.keys())
def test_mask__is_taken(run: Path, mask: Any) -> None:
    found = voxels(run, mask)
    assert found.dtype == bool
    assert np.array_equal(found, MASK)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
def test_mask__is_read_from_a_file(run: Path, tmp_path: Path, suffix: str, dtype: str) -> None:
    path = write_run(tmp_path / f"mask{suffix}", MASK.astype(dtype))
    assert np.array_equal(voxels(run, path), MASK)
    assert np.array_equal(voxels(run, str(path)), MASK)


def test_mask__none_takes_every_voxel(run: Path) -> None:
    assert voxels(run, None).all()


def test_mask__of_a_cube_keeps_its_axes_when_it_is_labelled(tmp_path: Path) -> None:
    # Of a cube, no shape tells that the axes are in another order; their names do.
    cube = np.random.default_rng(0).random((4, 4, 4)) < 0.5
    data = np.random.default_rng(1).normal(100, 1, (4, 4, 4, 30)).astype("f4")
    run = write_run(tmp_path / "cube.nii", data)
    assert np.array_equal(voxels(run, labelled(cube).transpose("z", "y", "x")), cube)


def test_mask__decides_which_voxels_are_fitted(run: Path) -> None:
    maps = cg.contrast(cg.fit(run, DESIGN, mask=MASK), "a").compute()
    assert np.array_equal(np.isfinite(maps["stat"]), MASK)
    assert np.array_equal(maps["voxel_status"] == 0, MASK)
    assert np.array_equal(maps["voxel_status"] == 1, ~MASK)
    whole = cg.contrast(cg.fit(run, DESIGN), "a").compute()
    # Products of other shapes are added up in another order.
    np.testing.assert_allclose(whole["stat"].where(MASK), maps["stat"], rtol=1e-11)


@pytest.mark.parametrize("shape", [(5, 4, 7), (4, 5, 6), (5, 4), ()])
def test_mask__of_another_shape_is_refused(run: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(MaskError) as caught:
        voxels(run, np.ones(shape, bool))
    one_line(caught.value, run, shape, GRID, "resample")


@pytest.mark.parametrize("volumes", [2, 30])
def test_mask__of_several_volumes_is_refused(run: Path, volumes: int) -> None:
    with pytest.raises(MaskError) as caught:
        voxels(run, np.ones((*GRID, volumes), bool))
    one_line(caught.value, "one volume", (*GRID, volumes), GRID)


@pytest.mark.parametrize("shift", [1e-3, 1.0, np.nan])
def test_mask__on_another_grid_is_refused_with_both_affines(
    run: Path, tmp_path: Path, shift: float
) -> None:
    affine = AFFINE.copy()
    affine[0, 3] += shift
    image = nib.Nifti1Image(MASK.astype("u1"), None)
    image.header.set_sform(affine, code=1)
    image._affine = affine
    for mask in (image, labelled(MASK, affine=affine.tolist())):
        with pytest.raises(MaskError) as caught:
            voxels(run, mask)
        one_line(caught.value, run, "affine", f"{affine[0, 3]:.6g}", "-3 0 0 6", "resample")


def test_mask__flipped_against_the_run_is_refused(run: Path) -> None:
    affine = AFFINE * [[-1], [1], [1], [1]]
    with pytest.raises(MaskError, match="affine differs"):
        voxels(run, nib.Nifti1Image(MASK.astype("u1"), affine))


@pytest.mark.parametrize("dtype", [bool, "u1", "f4"])
def test_mask__that_is_empty_is_refused(run: Path, dtype: Any) -> None:
    with pytest.raises(MaskError) as caught:
        voxels(run, np.zeros(GRID, dtype))
    one_line(caught.value, "empty", np.prod(GRID))


GREY = np.linspace(0, 1, int(np.prod(GRID))).reshape(GRID)


@pytest.mark.parametrize(
    "values",
    [
        GREY,
        (GREY * 5).astype("i2"),
        MASK * np.nan,
        np.where(MASK, 1.0, np.nan),
        np.where(MASK, np.inf, 0.0),
        np.where(MASK, 1, -1),
    ],
    ids=["grey", "labels", "NaN", "NaN outside", "infinite", "plus and minus"],
)
def test_mask__that_is_not_binary_is_refused(run: Path, tmp_path: Path, values: Any) -> None:
    path = write_run(tmp_path / "grey.nii", values)
    for mask, label in ((values, "mask"), (path, path)):
        with pytest.raises(MaskError) as caught:
            voxels(run, mask)
        one_line(caught.value, label, "0 and one other value", "threshold")


@pytest.mark.parametrize("mask", ["text", np.array("text"), object(), 1j * MASK, {"a": 1}, 3])
def test_mask__of_another_kind_is_refused(run: Path, mask: Any) -> None:
    with pytest.raises(ChunkglmError) as caught:
        voxels(run, mask)
    one_line(caught.value)


def test_mask__that_is_missing_or_a_folder_is_refused(run: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "none.nii.gz", tmp_path):
        with pytest.raises(ChunkglmError) as caught:
            voxels(run, path)
        one_line(caught.value, path)


DAMAGE = {
    "truncated": lambda c: c[: len(c) // 2],
    "no trailer": lambda c: c[:-8],
    "half a trailer": lambda c: c[:-4],
    "wrong checksum": lambda c: c[:-8] + b"\0\1\2\3" + c[-4:],
    "wrong length": lambda c: c[:-4] + b"\0\1\2\3",
    "empty": lambda c: b"",
    "text": lambda c: b"not an image\n" * 99,
    "gzipped text": lambda c: gzip.compress(b"not an image\n" * 99),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_mask__damaged_is_refused(run: Path, tmp_path: Path, damage: Any) -> None:
    path = write_run(tmp_path / "mask.nii.gz", MASK.astype("u1"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ImageError) as caught:
        voxels(run, path)
    one_line(caught.value, path, "truncated or corrupt")


def test_mask__damaged_plain_file_is_refused(run: Path, tmp_path: Path) -> None:
    path = write_run(tmp_path / "mask.nii", MASK.astype("u1"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ImageError) as caught:
        voxels(run, path)
    one_line(caught.value, path)
