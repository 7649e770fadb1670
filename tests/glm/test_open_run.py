"""Runs opened as labelled lazy arrays: values, coordinates, units, odd names."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from helpers_lazy import AFFINE, SHAPE, make_data, make_design, one_line, truth_of, write_run

import chunkglm as cg
from chunkglm.errors import DesignError, ImageError

DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


def extremes(dtype: str) -> Any:
    """Data with the largest and smallest values of their type, and zeros."""
    data = make_data((3, 3, 3, 6), dtype)
    limits = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.finfo(dtype)
    data[0, 0, 0, :4] = limits.max, limits.min, 0, limits.max
    if np.dtype(dtype).kind == "f":
        data[1, 1, 1, :4] = np.nan, np.inf, -np.inf, limits.smallest_subnormal
    return data


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img", ".zarr"])
def test_open_run__is_labelled(tmp_path: Path, suffix: str) -> None:
    path = write_run(tmp_path / ("run.nii" if suffix == ".zarr" else f"run{suffix}"))
    if suffix == ".zarr":
        path = Path(cg.convert(path, tmp_path / "run.zarr", progress=False))
    run = cg.open_run(path)
    assert run.name == "bold"
    assert run.dims == ("x", "y", "z", "time")
    assert run.shape == SHAPE
    assert run.dtype == np.int16
    assert [run[d].to_numpy().tolist() for d in ("x", "y", "z")] == [
        list(range(n)) for n in SHAPE[:3]
    ]
    assert run["time"].to_numpy().tolist() == [2.0 * t for t in range(30)]
    assert run["time"].attrs["units"] == "seconds"
    assert run.attrs["affine"] == AFFINE.tolist()
    assert isinstance(run.attrs["affine"], list)
    assert run.attrs["repetition_time"] == 2.0
    assert run.attrs["source"] == str(path)
    assert np.array_equal(run.to_numpy(), make_data())


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("nifti", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img"])
@pytest.mark.parametrize("scaling", [(1.0, 0.0), (0.1, -3.7), (-2.5, 0.0), (1.0, 12.0)])
def test_open_run__values_are_those_of_nibabel_to_the_bit(
    tmp_path: Path,
    suffix: str,
    dtype: str,
    nifti: int,
    endian: str,
    scaling: tuple[float, float],
) -> None:
    slope, intercept = scaling
    path = write_run(
        tmp_path / f"run{suffix}",
        extremes(dtype),
        slope=slope,
        intercept=intercept,
        endian=endian,
        nifti=nifti,
    )
    with np.errstate(over="ignore", invalid="ignore"):
        found, expected = cg.open_run(path).to_numpy(), truth_of(path)
    assert found.dtype == (np.dtype(dtype) if scaling == (1.0, 0.0) else np.float64)
    # Equal, the signs of zeros aside.
    assert (found + 0.0).tobytes() == (expected.astype(found.dtype) + 0.0).tobytes()


@pytest.mark.parametrize(
    ("slope", "intercept"),
    [(0.0, 0.0), (0.0, 5.0), (np.nan, 0.0), (np.nan, np.nan), (np.inf, 0.0), (1e-30, 0.0)],
)
def test_open_run__reads_odd_slopes_as_nibabel_does(
    tmp_path: Path, slope: float, intercept: float
) -> None:
    path = write_run(tmp_path / "run.nii", slope=slope, intercept=intercept)
    assert np.array_equal(cg.open_run(path).to_numpy(), truth_of(path))


@pytest.mark.parametrize("intercept", [np.nan, np.inf])
def test_open_run__refuses_a_slope_without_an_intercept(tmp_path: Path, intercept: float) -> None:
    path = write_run(tmp_path / "run.nii", slope=2.0, intercept=intercept)
    with pytest.raises(ImageError) as caught:
        cg.open_run(path)
    one_line(caught.value, path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_open_run__any_slice_is_that_of_the_whole(tmp_path: Path, suffix: str) -> None:
    path = write_run(tmp_path / f"run{suffix}", slope=np.float32(0.7))
    run, expected = cg.open_run(path), truth_of(path)
    assert np.array_equal(run[1:3, ::2, -1, 5:9].to_numpy(), expected[1:3, ::2, -1, 5:9])
    assert np.array_equal(run.isel(time=[3, 1]).to_numpy(), expected[..., [3, 1]])
    assert np.array_equal(run.sel(time=4.0).to_numpy(), expected[..., 2])


def test_untouched_source__does_not_look_at_what_is_not_dask(tmp_path: Path) -> None:
    from chunkglm.glm.runs import untouched_source

    path = write_run(tmp_path / "run.nii")
    lazy = xr.open_dataset(path, engine="nifti")["bold"]
    path.unlink()  # reading it would now fail
    assert untouched_source(lazy) is None
    assert untouched_source(xr.DataArray(make_data(), dims=("x", "y", "z", "time"))) is None


def test_untouched_source__is_that_of_a_run_as_it_was_opened(tmp_path: Path) -> None:
    from chunkglm.glm.runs import untouched_source

    run = cg.open_run(write_run(tmp_path / "run.nii"))
    source = untouched_source(run)
    assert source is not None
    assert source.path == run.attrs["source"]
    assert untouched_source(run + 0) is None
    assert untouched_source(run.transpose("time", "x", "y", "z")) is None


# --- time -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "stored", "seconds"),
    [("sec", 2.5, 2.5), ("msec", 2500.0, 2.5), ("usec", 2.5e6, 2.5), ("unknown", 2.5, 2.5)],
)
@pytest.mark.parametrize("suffix", [".nii", ".zarr"])
def test_open_run__reads_the_repetition_time_in_its_unit(
    tmp_path: Path, unit: str, stored: float, seconds: float, suffix: str
) -> None:
    path = write_run(tmp_path / "run.nii", t_r=stored, units=("mm", unit))
    if suffix == ".zarr":
        path = Path(cg.convert(path, tmp_path / "run.zarr", progress=False))
    run = cg.open_run(path)
    # The header holds it in float32.
    assert run.attrs["repetition_time"] == pytest.approx(seconds, rel=1e-6)
    assert run["time"].to_numpy()[4] == pytest.approx(4 * seconds, rel=1e-6)


@pytest.mark.parametrize("stored", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("suffix", [".nii", ".zarr"])
def test_open_run__counts_volumes_where_there_is_no_repetition_time(
    tmp_path: Path, stored: float, suffix: str
) -> None:
    path = write_run(tmp_path / "run.nii", t_r=stored)
    if suffix == ".zarr":
        path = Path(cg.convert(path, tmp_path / "run.zarr", progress=False))
    run = cg.open_run(path)
    assert "repetition_time" not in run.attrs
    assert run["time"].to_numpy().tolist() == list(range(30))
    assert run["time"].attrs["units"] == "volumes"


def test_open_run__takes_the_repetition_time_given(tmp_path: Path) -> None:
    run = cg.open_run(write_run(tmp_path / "run.nii"), t_r=0.72)
    assert run.attrs["repetition_time"] == 0.72
    assert run["time"].to_numpy()[-1] == 29 * 0.72


@pytest.mark.parametrize("t_r", [0, -2, np.nan, np.inf, "two", [2.0, 2.0], {}])
def test_open_run_and_fit__refuse_a_bad_repetition_time(tmp_path: Path, t_r: Any) -> None:
    path = write_run(tmp_path / "run.nii")
    for call in (
        lambda: cg.open_run(path, t_r=t_r),
        lambda: cg.fit(path, make_design(), t_r=t_r),
    ):
        with pytest.raises(DesignError) as caught:
            call()
        one_line(caught.value, "t_r", repr(t_r))


# --- names ------------------------------------------------------------------------------------

NAMES = ["two words", "ünï-cødé-脳", "[1]*?", "a::b", "x#y", "%20", "-rf", "it's", "a=b&c"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img", ".zarr"])
def test_open_run_convert_fit_save__take_odd_names(tmp_path: Path, name: str, suffix: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    path = write_run(folder / f"{name}{'.nii' if suffix == '.zarr' else suffix}")
    if suffix == ".zarr":
        path = Path(cg.convert(path, folder / f"{name}.zarr", progress=False))
    assert np.array_equal(cg.open_run(path).to_numpy(), make_data())
    maps = cg.contrast(cg.fit(path, make_design()), "a")
    for file in cg.save(maps, folder / "out", prefix=name):
        assert Path(file).exists()
    assert cg.open_maps(folder / "out", prefix=name).sizes["x"] == SHAPE[0]


def test_open_run__takes_links_and_strings(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.nii.gz")
    store = cg.convert(str(path), str(tmp_path / "run.zarr"), progress=False)
    (tmp_path / "link.nii.gz").symlink_to(path)
    (tmp_path / "link.zarr").symlink_to(store)
    (tmp_path / "folder").symlink_to(tmp_path, target_is_directory=True)
    for name in ("link.nii.gz", "link.zarr", "folder/run.nii.gz", "folder/run.zarr", "run.zarr/"):
        assert np.array_equal(cg.open_run(f"{tmp_path}/{name}").to_numpy(), make_data())


def test_open_run__takes_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "run.nii")
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(cg.open_run("run.nii").to_numpy(), make_data())
    cg.convert("run.nii", "run.zarr", progress=False)
    assert np.array_equal(cg.open_run("run.zarr").to_numpy(), make_data())


@pytest.mark.parametrize("name", ["none.nii", "none.nii.gz", "none.zarr", "", "sub/none"])
def test_open_run__names_what_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(cg.ChunkglmError) as caught:
        cg.open_run(tmp_path / name)
    one_line(caught.value, tmp_path / name)


# --- affines ----------------------------------------------------------------------------------


def test_open_run__takes_nibabel_s_affine_of_oblique_and_disagreeing_forms(tmp_path: Path) -> None:
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.8
    path = write_run(tmp_path / "run.nii")
    content = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(content[:348]))
    header.set_sform(sheared, code="aligned")
    content[:348] = header.binaryblock
    for name, form in (("sform", 1), ("qform", 0)):
        header["sform_code"] = form
        content[:348] = header.binaryblock
        (tmp_path / f"{name}.nii").write_bytes(content)
        found = np.array(cg.open_run(tmp_path / f"{name}.nii").attrs["affine"])
        assert np.array_equal(found, nib.load(tmp_path / f"{name}.nii").affine)
    assert not np.array_equal(found, sheared)
