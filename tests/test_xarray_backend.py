"""NIfTI runs opened by xarray: nibabel's values, read no sooner and no more than asked for."""

import io
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from helpers_lazy import (
    SHAPE,
    distances,
    lazily,
    make_data,
    make_design,
    make_mask,
    one_line,
    same_bytes,
    truth_of,
    write_run,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import chunkglm as cg
from chunkglm.errors import DesignError, ImageError
from chunkglm.io.nifti import NiftiRun, open_nifti
from chunkglm.xarray_backend import NiftiBackendEntrypoint

NAMES = ("run.nii", "run.nii.gz", "run.img")
FULL = range(SHAPE[2])
DESIGN, MASK = make_design(), make_mask()

# Chunks of 8 volumes of the tiny runs; the library's own would hold one whole.
CHUNK_VOLUMES = 8

ALL_PIECES = [(0, 7), (7, 15), (15, 22), (22, 30)]

# Some tests cut across the chunks on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:The specified chunks separate:UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run in each form, with a scale factor."""
    folder = tmp_path_factory.mktemp("engine")
    for name in NAMES:
        write_run(folder / name, slope=0.37, intercept=-11.5)
    return folder


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    import chunkglm.io.nifti as module

    monkeypatch.setattr(module, "CHUNK_BYTES", CHUNK_VOLUMES * 5 * 4 * 6 * 2)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every call that brings image data from disk."""
    calls: list[Any] = []

    def count(name: str) -> None:
        original: Callable[..., Any] = getattr(NiftiRun, name)

        def counted(self: NiftiRun, planes: range, *rest: int) -> Any:
            calls.append((name, planes, *rest))
            return original(self, planes, *rest)

        monkeypatch.setattr(NiftiRun, name, counted)

    count("read")
    count("blocks")
    return calls


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of every piece of image read."""
    import chunkglm.io.nifti as module

    sizes: list[int] = []
    original = module._fill

    def fill(file: Any, out: Any) -> None:
        sizes.append(out.nbytes)
        original(file, out)

    monkeypatch.setattr(module, "_fill", fill)
    return sizes


def open_bold(path: Path, **options: Any) -> xr.DataArray:
    return xr.open_dataset(path, engine="nifti", **options)["bold"]


def same_values(found: Any, expected: Any) -> bool:
    """Equal bit for bit, NaN and signed zero included, in dtype and in shape."""
    found = np.asarray(found)
    return (found.dtype, found.shape, found.tobytes()) == (
        expected.dtype,
        expected.shape,
        expected.tobytes(),
    )


# --- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize(
    ("dtype", "slope", "intercept"),
    [
        ("i2", 1.0, 0.0),
        ("i2", 0.0137, -3.3),
        ("u1", 2.5, 0.0),
        ("f4", 1.0, 0.0),
        ("f4", 0.1, 7.0),
        ("f8", 1.0, 0.0),
    ],
)
@pytest.mark.parametrize("chunks", [None, {}, {"time": 7, "z": 4}])
def test_values__are_nibabels_bit_for_bit(
    tmp_path: Path, name: str, endian: str, dtype: str, slope: float, intercept: float, chunks: Any
) -> None:
    data = make_data(dtype=dtype)
    if data.dtype.kind == "f":
        data[0, 0, 0, :3] = np.nan, np.inf, -0.0
    path = write_run(tmp_path / name, data, slope=slope, intercept=intercept, endian=endian)
    bold = open_bold(path, chunks=chunks)
    truth = truth_of(path)
    truth = truth.astype(truth.dtype.newbyteorder("="), order="C")
    assert bold.dtype == truth.dtype
    assert same_values(bold, truth)
    # Negative control: one bit is a difference.
    truth.reshape(-1).view(np.uint8)[5] ^= 1
    assert not same_values(bold, truth)


def test_header_file_of_a_pair__opens_the_pair(folder: Path) -> None:
    assert same_values(open_bold(folder / "run.hdr"), truth_of(folder / "run.img"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("t_r", [None, 1.25])
@pytest.mark.parametrize("as_str", [False, True])
def test_labels__are_those_of_open_run(
    folder: Path, name: str, t_r: float | None, as_str: bool
) -> None:
    path: Any = str(folder / name) if as_str else folder / name
    dataset = xr.open_dataset(path, engine="nifti", t_r=t_r)
    assert list(dataset.data_vars) == ["bold"]
    xr.testing.assert_identical(dataset["bold"], cg.open_run(path, t_r=t_r))
    assert dataset["time"].to_numpy()[1] == (t_r or 2.0)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", NAMES)
def test_chunks__are_those_of_open_run(folder: Path, name: str) -> None:
    run, bold = cg.open_run(folder / name), open_bold(folder / name, chunks={})
    assert len(run.chunks[3]) == 4
    assert bold.chunks == run.chunks
    assert bold.encoding["preferred_chunks"] == {"x": 5, "y": 4, "z": 6, "time": 8}
    assert not isinstance(open_bold(folder / name).variable._data, da.Array)


# --- nothing before it is asked for -----------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunks", [None, {}])
def test_opening_and_looking__reads_the_header_only(
    folder: Path, reads: list[Any], filled: list[int], name: str, chunks: Any
) -> None:
    with lazily():
        dataset = xr.open_dataset(folder / name, engine="nifti", chunks=chunks)
        part = dataset["bold"].isel(x=slice(1, 3), time=slice(None, None, -2)).transpose()
        repr((dataset, part, part.sizes, part.dtype, dataset.nbytes))
        dataset.sel(time=slice(0, 20))
        copy = pickle.loads(pickle.dumps(part))
    assert reads == filled == []
    # Negative control: what is asked for is read.
    assert copy.load().shape == (15, 6, 4, 2)
    assert reads
    assert filled


def test_loaded_array__is_read_once(folder: Path, reads: list[Any]) -> None:
    bold = open_bold(folder / "run.nii")
    bold.load()
    bold.mean()
    assert reads == [("read", FULL, 0, 30)]


# --- parts ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "key",
    [
        {"time": 3},
        {"time": -1, "z": -2},
        {"x": 1, "y": 2, "z": 3, "time": 4},
        {"x": 1, "y": 2, "z": 3},
        {"time": slice(None, None, -1)},
        {"time": slice(25, 3, -7), "x": slice(None, None, -2), "z": slice(4, None, -1)},
        {"y": slice(1, 3), "z": slice(2, 5), "time": slice(1, 29, 3)},
        {"time": [29, 0, 7, 7, -3]},
        {"time": [4, 4, 5]},
        {"x": [3, 0], "y": [1, 1, 2], "z": [5, 2], "time": [8, 1, 20]},
        {"z": np.array([True, False, False, True, False, True]), "time": np.arange(30) % 4 == 1},
        {"time": np.zeros(30, bool)},
        {"z": []},
        {"time": slice(7, 7)},
        {"time": slice(3, 7, -1)},
    ],
    ids=str,
)
def test_parts__are_numpys(folder: Path, name: str, key: dict[str, Any]) -> None:
    expected = xr.DataArray(truth_of(folder / name), dims=("x", "y", "z", "time")).isel(key)
    bold = open_bold(folder / name, cache=False)
    assert same_values(bold.isel(key), expected.to_numpy())
    assert same_values(open_bold(folder / name, chunks={}).isel(key), expected.to_numpy())
    # A part of a part is still read as one.
    later = {"time": slice(None, None, -2)} if "time" in expected.dims else {}
    assert same_values(bold.isel(key).isel(later), expected.isel(later).to_numpy())


@pytest.mark.parametrize("name", NAMES)
def test_points__are_numpys(folder: Path, name: str) -> None:
    voxels = {
        d: xr.DataArray(i, dims="voxel") for d, i in zip("xyz", np.nonzero(MASK), strict=True)
    }
    found = open_bold(folder / name).isel(voxels)
    assert same_values(found, truth_of(folder / name)[MASK])
    diagonal = xr.DataArray([2, 0, -1], dims="point")
    found = open_bold(folder / name).isel(x=diagonal, time=diagonal, z=1)
    assert found.dims == ("point", "y")
    assert same_values(found, truth_of(folder / name)[[2, 0, -1], :, 1, [2, 0, -1]])


def selections(n: int) -> st.SearchStrategy[Any]:
    whole = st.integers(-n, n - 1)
    return st.one_of(whole, st.slices(n), st.lists(whole, max_size=5), st.just(slice(None)))


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_part__is_numpys(folder: Path, name: str, data: st.DataObject) -> None:
    import chunkglm.io.nifti as module

    key = dict(
        zip(("x", "y", "z", "time"), data.draw(st.tuples(*map(selections, SHAPE))), strict=True)
    )
    expected = xr.DataArray(truth_of(folder / name), dims=("x", "y", "z", "time")).isel(key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_BYTES", data.draw(st.integers(1, 10_000)))
        found = open_bold(folder / name).isel(key)
        assert same_values(found, expected.to_numpy())


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ({"time": 5}, [("read", FULL, 5, 6)]),
        ({"time": slice(5, 9)}, [("read", FULL, 5, 9)]),
        ({"time": [20, 3, 4]}, [("read", FULL, 3, 5), ("read", FULL, 20, 21)]),
        ({"time": slice(None, None, -15)}, [("read", FULL, 14, 15), ("read", FULL, 29, 30)]),
        ({"time": [4, 4, 5]}, [("read", FULL, 4, 6)]),
        ({"time": 5, "z": slice(2, 4)}, [("read", range(2, 4), 5, 6)]),
        # No piece is longer than a chunk, whatever is asked for.
        ({"time": slice(2, 14)}, [("read", FULL, 2, 8), ("read", FULL, 8, 14)]),
        # A few planes of many volumes: those planes alone.
        ({"z": slice(2, 4)}, [("read", range(2, 4), a, b) for a, b in ALL_PIECES]),
        ({"time": []}, []),
    ],
    ids=str,
)
def test_plain_file__reads_the_volumes_asked_for(
    folder: Path, reads: list[Any], key: dict[str, Any], expected: list[Any]
) -> None:
    open_bold(folder / "run.nii").isel(key).load()
    assert reads == expected


@pytest.mark.usefixtures("small_chunks")
def test_plain_file__reads_no_byte_more_than_its_volumes_or_planes(
    folder: Path, filled: list[int]
) -> None:
    volume = open_nifti(folder / "run.nii").volume_bytes
    bold = open_bold(folder / "run.nii", cache=False)
    for key, needed in (
        ({"time": [0, 9, 29]}, 3 * volume),
        ({"x": 2, "y": 2, "z": 3}, 30 * volume // 6),
        ({"z": [1, 2], "time": slice(0, 20)}, 20 * volume // 3),
        ({}, 30 * volume),
    ):
        filled.clear()
        bold.isel(key).load()
        assert sum(filled) == needed


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ({"time": slice(5, 9)}, [("read", FULL, 5, 9)]),
        ({"time": -1}, [("read", FULL, 29, 30)]),
        # In several pieces: forwards once, not from the start for each.
        ({"time": [1, 20]}, [("blocks", FULL, CHUNK_VOLUMES)]),
        ({}, [("blocks", FULL, CHUNK_VOLUMES)]),
    ],
    ids=str,
)
def test_compressed_file__is_read_forwards_once(
    folder: Path, reads: list[Any], key: dict[str, Any], expected: list[Any]
) -> None:
    open_bold(folder / "run.nii.gz").isel(key).load()
    assert reads == expected


def test_compressed_file__is_not_read_beyond_what_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import chunkglm.io.nifti as module

    # Larger than the 64 kB that a decompressor may hold back.
    data = make_data((32, 32, 8, 40))
    path = write_run(tmp_path / "run.nii.gz", data)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * data[..., 0].nbytes)
    bold = open_bold(path, cache=False)
    assert same_values(bold.isel(time=slice(2, 5)), data[..., 2:5])
    assert same_values(bold.isel(time=[0, 2, 9]), data[..., [0, 2, 9]])
    for beyond in (39, [0, 2, 39]):
        with pytest.raises(ImageError):
            bold.isel(time=beyond).load()


# --- what xarray does with engines ------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, "run.hdr"])
def test_engine__need_not_be_named(folder: Path, name: str) -> None:
    for path in (folder / name, str(folder / name)):
        xr.testing.assert_identical(xr.open_dataset(path)["bold"], cg.open_run(path))
    assert xr.open_dataarray(folder / name).name == "bold"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.nii", True),
        ("a.nii.gz", True),
        ("a.hdr", True),
        ("a.img", True),
        ("A.NII.GZ", True),
        (Path("folder/a.nii"), True),
        ("a.nii.zarr", False),
        ("a.zarr", False),
        ("a.nc", False),
        ("a.gz", False),
        ("a.tar.gz", False),
        ("nii", False),
        ("anii", False),
        ("a.nii.bz2", False),
        ("a.img.nc", False),
        (b"a.nii", False),
        pytest.param(io.BytesIO(b"a.nii"), False, id="BytesIO"),
        (None, False),
    ],
    ids=str,
)
def test_guess_can_open__goes_by_the_name(name: Any, expected: bool) -> None:
    assert NiftiBackendEntrypoint().guess_can_open(name) is expected


def test_engine__is_listed_and_describes_itself() -> None:
    engine = xr.backends.list_engines()["nifti"]
    assert isinstance(engine, NiftiBackendEntrypoint)
    assert "NIfTI" in engine.description


def test_other_files__are_left_to_other_engines(tmp_path: Path) -> None:
    xr.Dataset({"a": ("x", [1.0, 2.0])}).to_netcdf(tmp_path / "a.nc", engine="scipy")
    assert xr.open_dataset(tmp_path / "a.nc")["a"].to_numpy().tolist() == [1.0, 2.0]


def test_import__brings_in_nothing_heavy() -> None:
    # The package around the module stands empty here: what the module itself costs is the claim.
    code = """
import sys, types, xarray, chunkglm
sys.modules["chunkglm.glm"] = glm = types.ModuleType("chunkglm.glm")
glm.__path__ = [chunkglm.__path__[0] + "/glm"]
before = {name.partition(".")[0] for name in sys.modules}
import chunkglm.xarray_backend
print(*sorted({name.partition(".")[0] for name in sys.modules} - before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("dropped", "left"),
    [
        ("bold", {"x", "y", "z", "time"}),
        (["time", "x"], {"bold", "y", "z"}),
        (("no such",), {"bold", "x", "y", "z", "time"}),
        (None, {"bold", "x", "y", "z", "time"}),
    ],
)
def test_drop_variables__leaves_them_out(folder: Path, dropped: Any, left: set[str]) -> None:
    dataset = xr.open_dataset(folder / "run.nii", engine="nifti", drop_variables=dropped)
    assert set(dataset.variables) == left


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_open_mfdataset__stacks_runs(tmp_path: Path, reads: list[Any], ending: str) -> None:
    paths = [write_run(tmp_path / f"{i}{ending}", make_data(seed=i), slope=0.5) for i in range(3)]
    with lazily():
        dataset = xr.open_mfdataset(paths, concat_dim="run", combine="nested", engine="nifti")
    assert reads == []
    assert dataset["bold"].dims == ("run", "x", "y", "z", "time")
    assert same_values(dataset["bold"], np.stack([truth_of(path) for path in paths]))
    # Read by the names too, and with a keyword of the engine.
    dataset = xr.open_mfdataset(paths, concat_dim="run", combine="nested", t_r=3.0)
    assert dataset["time"].to_numpy()[-1] == 29 * 3.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunks", [None, {}])
def test_pickle__round_trips_without_the_data(folder: Path, name: str, chunks: Any) -> None:
    dataset = xr.open_dataset(folder / name, engine="nifti", chunks=chunks)
    sent = pickle.dumps(dataset)
    assert len(sent) < dataset["bold"].nbytes / 2
    xr.testing.assert_identical(pickle.loads(sent), dataset)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", NAMES)
def test_threads__read_beside_each_other(folder: Path, name: str) -> None:
    bold, truth = open_bold(folder / name, chunks={"time": 1}), truth_of(folder / name)
    found = bold.data.compute(scheduler="threads", num_workers=8)
    assert same_values(found, truth)
    shared = open_bold(folder / name, cache=False)
    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(lambda t: shared.isel(time=[t, -1 - t]).to_numpy(), range(30))
        for t, part in enumerate(parts):
            assert same_values(part, truth[..., [t, -1 - t]])


def test_processes__read_what_they_are_sent(folder: Path) -> None:
    bold = open_bold(folder / "run.nii.gz", chunks={"time": 15})
    found = bold.data.compute(scheduler="processes", num_workers=2)
    assert same_values(found, truth_of(folder / "run.nii.gz"))


# --- fits -------------------------------------------------------------------------------------


def fits_of(path: Path, **options: Any) -> Iterator[Any]:
    for run in (open_bold(path), open_bold(path, chunks={}), open_bold(path, chunks={"time": 7})):
        yield cg.fit(run, DESIGN, mask=MASK, **options)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("noise", ["ols", "ar1"])
@pytest.mark.parametrize("fwhm", [None, 5.0])
def test_fit__gives_the_maps_of_open_run(
    folder: Path, name: str, noise: str, fwhm: float | None
) -> None:
    options: dict[str, Any] = {"noise": noise, "smoothing_fwhm": fwhm}
    expected = cg.fit(cg.open_run(folder / name), DESIGN, mask=MASK, **options)
    for fit in fits_of(folder / name, **options):
        for definition in ("a - b", ["a", "b"]):
            found, wanted = (cg.contrast(f, definition).compute() for f in (fit, expected))
            # In standard errors and z. The integers are summed before they are scaled there, and
            # scaled before they are summed here. Worst seen: 7e-14.
            assert distances(found, wanted) < 1e-11
            assert found.attrs["affine"] == wanted.attrs["affine"]
        assert (fit.voxel_status.to_numpy() == expected.voxel_status.to_numpy()).all()


@pytest.mark.parametrize("name", NAMES)
def test_fit__of_a_chunked_run_is_lazy(folder: Path, reads: list[Any], name: str) -> None:
    with lazily():
        fit = cg.fit(open_bold(folder / name, chunks={}), DESIGN, mask=MASK)
        maps = cg.contrast(fit, "a - b")
    assert reads == []
    # Negative control.
    maps.compute()
    assert reads


def test_fit__of_another_run_is_told_apart(folder: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other.nii", make_data(seed=1))
    found, wanted = (
        cg.contrast(cg.fit(open_bold(path), DESIGN, mask=MASK), "a").compute()
        for path in (other, folder / "run.nii")
    )
    assert distances(found, wanted) > 0.1


def test_fit__by_chunks_gives_the_same_bytes_as_a_changed_open_run(folder: Path) -> None:
    # Both are dask arrays of the same values in the same chunks: the very same sums.
    runs = (open_bold(folder / "run.nii", chunks={}), cg.open_run(folder / "run.nii") * 1.0)
    runs[1].attrs.update(runs[0].attrs)
    found, wanted = (cg.contrast(cg.fit(r, DESIGN, mask=MASK), "a").compute() for r in runs)
    assert same_bytes(found, wanted)


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, {}])
@pytest.mark.parametrize("key", [{}, {"time": 29}, {"time": [0, 29]}])
def test_truncated_file__is_told_when_it_is_read(
    folder: Path, tmp_path: Path, chunks: Any, key: dict[str, Any]
) -> None:
    path = tmp_path / "cut.nii.gz"
    path.write_bytes((folder / "run.nii.gz").read_bytes()[:-2000])
    bold = open_bold(path, chunks=chunks)
    with pytest.raises(ImageError) as caught:
        bold.isel(key).load()
    one_line(caught.value, path, "truncated or corrupt", "copy or download it again")


def test_wrong_checksum__is_told_when_it_is_read(folder: Path, tmp_path: Path) -> None:
    content = (folder / "run.nii.gz").read_bytes()
    path = tmp_path / "wrong.nii.gz"
    path.write_bytes(content[:-8] + b"wrong" + content[-3:])
    for chunks in (None, {}):
        with pytest.raises(ImageError) as caught:
            open_bold(path, chunks=chunks).load()
        one_line(caught.value, path, "truncated or corrupt")


def test_truncated_plain_file__is_told_when_it_is_opened(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.nii"
    path.write_bytes((folder / "run.nii").read_bytes()[:-100])
    with pytest.raises(ImageError) as caught:
        open_bold(path)
    one_line(caught.value, path, "the header promises")


def test_file_changed_since__is_told_when_it_is_read(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.nii"
    shutil.copy(folder / "run.nii", path)
    bold = open_bold(path)
    write_run(path, make_data((5, 4, 6, 31)))
    with pytest.raises(ImageError) as caught:
        bold.isel(time=0).load()
    one_line(caught.value, path, "changed since it was opened")


@pytest.mark.parametrize("shape", [(5, 4, 6), (5, 4, 6, 1)])
def test_single_volume__is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write_run(tmp_path / "t1w.nii.gz", np.ones(shape, np.int16))
    with pytest.raises(ImageError) as caught:
        xr.open_dataset(path)
    one_line(caught.value, path, "a run")


def test_missing_files_and_other_things__are_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "text.nii").write_text("not an image")
    (tmp_path / "run.zarr").mkdir()
    for wrong, cause in (
        (tmp_path / "none.nii.gz", "no such file"),
        (tmp_path / "text.nii", "is not a NIfTI file"),
        (tmp_path / "run.zarr", "is a folder"),
        ("memory://none/run.nii.gz", "memory://none/run.nii.gz: is not there"),
        (io.BytesIO(b"run"), "got BytesIO"),
    ):
        with pytest.raises(ImageError) as caught:
            xr.open_dataset(wrong, engine="nifti")
        one_line(caught.value, cause)


@pytest.mark.parametrize("t_r", [0, -1.0, "two", np.nan])
def test_repetition_time__must_be_a_positive_number(folder: Path, t_r: Any) -> None:
    with pytest.raises(DesignError) as caught:
        xr.open_dataset(folder / "run.nii", engine="nifti", t_r=t_r)
    one_line(caught.value, "t_r must be a positive number", repr(t_r))
