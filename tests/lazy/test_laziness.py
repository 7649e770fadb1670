"""Nothing computes or reads before it is asked to, and then nothing is done twice."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from helpers_lazy import (
    SHAPE,
    ComputedError,
    counting,
    lazily,
    make_data,
    make_design,
    make_mask,
    write_run,
)

import chunkglm as cg
from chunkglm.io.nifti import NiftiRun
from chunkglm.io.store import BOLD, StoreRun

DESIGN, MASK = make_design(), make_mask()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("run.nii", "run.nii.gz", "run.img"):
        write_run(folder / name)
    write_run(folder / "second.nii.gz", make_data(seed=1))
    for name in ("run", "second"):
        cg.convert(folder / f"{name}.nii.gz", folder / f"{name}.zarr", progress=False)
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every call that brings image data from disk: blocks drawn and ranges read."""
    calls: list[Any] = []
    for kind in (NiftiRun, StoreRun):
        for name in ("blocks", "read"):
            _count(monkeypatch, kind, name, calls)
    return calls


def _count(monkeypatch: pytest.MonkeyPatch, kind: Any, name: str, calls: list[Any]) -> None:
    original: Callable[..., Any] = getattr(kind, name)

    def counted(self: Any, planes: range, *rest: int) -> Any:
        calls.append((Path(self.path).name, name, planes))
        return original(self, planes, *rest)

    monkeypatch.setattr(kind, name, counted)


def runs_of(path: Path) -> Iterator[xr.DataArray]:
    """The run as it is, and as users change it."""
    run = cg.open_run(path)
    yield run
    yield run * 1.0
    yield run.chunk({"time": 7, "z": 2})
    yield run.astype(np.float32)
    yield run.transpose("time", "z", "y", "x")


def test_lazily__guards() -> None:
    array = da.ones(3)
    with lazily():
        for compute in (
            array.compute,
            lambda: dask.compute(array),
            lambda: np.asarray(array),
            xr.DataArray(array).load,
            array.persist,
        ):
            with pytest.raises(ComputedError):
                compute()
    assert array.compute().sum() == 3


@pytest.mark.parametrize("name", ["run.nii", "run.nii.gz", "run.img", "run.zarr"])
@pytest.mark.parametrize("fwhm", [None, 5.0])
@pytest.mark.parametrize("noise", ["ols", "ar1"])
def test_everything_up_to_the_maps__is_lazy(
    folder: Path, reads: list[Any], name: str, fwhm: float | None, noise: str
) -> None:
    with lazily():
        for run in runs_of(folder / name):
            fit = cg.fit(run, DESIGN, mask=MASK, smoothing_fwhm=fwhm, noise=noise)
            repr(fit)
            found = [fit.beta, fit.sigma2, fit.ar, fit.r_square, fit.voxel_status]
            t = cg.contrast(fit, "a - b")
            f = cg.contrast(fit, ["a", "b"])
            parts = cg.fixed_effects([cg.fixed_effects([t, t]), t])
            both = cg.fixed_effects(xr.concat([f, f], dim="run"))
            for maps in (t, f, parts, both):
                found += list(maps.data_vars.values())
            assert all(isinstance(one.data, da.Array) for one in found)
    assert reads == []
    # Negative control: the counter counts.
    t["stat"].compute()
    assert reads


def test_open_run__of_a_truncated_store_or_file_is_the_only_look_at_the_disk(
    folder: Path, reads: list[Any]
) -> None:
    with lazily():
        runs = [cg.open_run(folder / n) for n in ("run.nii", "run.nii.gz", "run.zarr")]
        for run in runs:
            assert run.shape == SHAPE
            repr(run)
    assert reads == []
    runs[0].isel(time=0).compute()
    assert [call[:2] for call in reads] == [("run.nii", "read")]


# --- computed together, each thing once -------------------------------------------------------


def test_maps_computed_together__read_a_compressed_run_once(
    folder: Path, reads: list[Any], tmp_path: Path
) -> None:
    maps = cg.contrast(cg.fit(folder / "run.nii.gz", DESIGN, mask=MASK), "a")
    cg.save(maps, tmp_path, prefix="p")
    assert [call[:2] for call in reads] == [("run.nii.gz", "blocks")]


def test_compute__of_maps_and_fixed_effects_reads_each_compressed_run_once(
    folder: Path, reads: list[Any]
) -> None:
    fits = [cg.fit(folder / f"{n}.nii.gz", DESIGN, mask=MASK) for n in ("run", "second")]
    one, two = (cg.contrast(fit, "a - b") for fit in fits)
    other = cg.contrast(fits[0], ["a", "b"])
    ffx = cg.fixed_effects([one, two])
    dask.compute(one, two, other, ffx, fits[0].beta, fits[0].sigma2)
    assert sorted(call[:2] for call in reads) == [
        ("run.nii.gz", "blocks"),
        ("second.nii.gz", "blocks"),
    ]
    # Negative control: apart, the runs are read again.
    reads.clear()
    one.compute()
    ffx.compute()
    assert len(reads) == 3


@pytest.mark.parametrize("name", ["run.nii", "run.zarr"])
def test_compute__of_several_contrasts_reads_each_slab_once(
    folder: Path, reads: list[Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import chunkglm.sizes

    monkeypatch.setattr(chunkglm.sizes, "SMALLEST_SLAB_BYTES", 1)
    fit = cg.fit(folder / name, DESIGN, mask=MASK)
    dask.compute(cg.contrast(fit, "a"), cg.contrast(fit, "b"), fit.beta)
    planes = [call[2] for call in reads]
    assert len(planes) == len(set(planes)) == len(fit.slabs.occupied)


def test_fits_of_the_same_run__share_their_pass(folder: Path, reads: list[Any]) -> None:
    # Two fits made apart, in two calls: the same data, design and mask are the same tasks.
    fits = [cg.fit(folder / "run.nii.gz", DESIGN, mask=MASK) for _ in range(2)]
    dask.compute(cg.contrast(fits[0], "a"), cg.contrast(fits[1], "b"))
    assert len(reads) == 1


def test_fits_that_differ__do_not_share_their_tasks(folder: Path) -> None:
    base: dict[str, Any] = {"run": folder / "run.nii.gz", "design": DESIGN, "mask": MASK}
    changes: list[dict[str, Any]] = [
        {},
        {"run": folder / "second.nii.gz"},
        {"run": folder / "run.zarr"},
        {"design": DESIGN.assign(a=DESIGN["a"] * np.arange(30))},
        {"mask": None},
        {"smoothing_fwhm": 4.0},
        {"smoothing_fwhm": 5.0},
        {"noise": "ols"},
        {"noise": cg.AR(1, bins=100)},
        {"scaling": None},
    ]
    names = set()
    for change in changes:
        fit = cg.fit(**{**base, **change})
        names |= {cg.contrast(fit, "a")["stat"].data.name, cg.contrast(fit, "b")["stat"].data.name}
    assert len(names) == 2 * len(changes)


def test_loaded_fit__reads_no_more(folder: Path, reads: list[Any]) -> None:
    fit = cg.fit(folder / "run.nii.gz", DESIGN, mask=MASK).load()
    assert len(reads) == 1
    for definition in ("a", "b", ["a", "b"]):
        cg.contrast(fit, definition).compute()
    fit.beta.compute()
    assert len(reads) == 1


# --- only what the mask needs -----------------------------------------------------------------


def test_store__chunks_outside_the_mask_are_never_read(folder: Path, tmp_path: Path) -> None:
    from chunkglm.io.nifti import open_nifti
    from chunkglm.io.place import place_of
    from chunkglm.io.store import write_store

    source = open_nifti(folder / "run.nii")
    store = tmp_path / "run.zarr"
    write_store(source, place_of(store), (5, 4, 1, 10), overwrite=False, advance=lambda _: None)
    mask = np.zeros(SHAPE[:3], bool)
    mask[1:4, 1:3, 2] = mask[2, 2, 4] = True
    maps = [cg.contrast(cg.fit(r, DESIGN, mask=mask), "a") for r in runs_of(store)]
    expected = cg.contrast(cg.fit(folder / "run.nii", DESIGN, mask=mask), "a")["stat"].to_numpy()
    for plane in (0, 1, 3, 5):
        for chunk in (store / BOLD / f"c/0/0/{plane}").iterdir():
            chunk.unlink()
    # All but one: astype and multiplication leave dask's slicing as it is, chunk() merges planes.
    for i in (0, 1, 3):
        np.testing.assert_allclose(maps[i]["stat"].to_numpy(), expected, rtol=1e-5)
    # Negative control: the planes that are needed are.
    (store / BOLD / "c/0/0/4/1").unlink()
    with pytest.raises(cg.ChunkglmError, match="c/0/0/4/1"):
        maps[0]["stat"].compute()


def test_store__smoothing_reads_the_halo_and_no_more(folder: Path, tmp_path: Path) -> None:
    from chunkglm.io.nifti import open_nifti
    from chunkglm.io.place import place_of
    from chunkglm.io.store import write_store

    data = make_data((5, 4, 20, 30))
    source = open_nifti(write_run(tmp_path / "tall.nii", data))
    store = tmp_path / "tall.zarr"
    write_store(source, place_of(store), (5, 4, 1, 30), overwrite=False, advance=lambda _: None)
    mask = np.zeros(data.shape[:3], bool)
    mask[2, 2, 9:11] = True
    maps = cg.contrast(cg.fit(store, DESIGN, mask=mask, smoothing_fwhm=5.0), "a")
    # sigma = 5 / 2.3548 / 3.5 = 0.607 planes, cut at 4 sigma: 2 planes to each side.
    for plane in (*range(7), *range(13, 20)):
        (store / BOLD / f"c/0/0/{plane}/0").unlink()
    assert np.isfinite(maps["stat"].to_numpy()[mask]).all()
    (store / BOLD / "c/0/0/7/0").unlink()
    with pytest.raises(cg.ChunkglmError, match="c/0/0/7/0"):
        maps["stat"].compute()


def test_plain_nifti__reads_the_planes_of_the_mask(folder: Path, reads: list[Any]) -> None:
    mask = np.zeros(SHAPE[:3], bool)
    mask[2, 2, 3] = True
    cg.contrast(cg.fit(folder / "run.nii", DESIGN, mask=mask), "a").compute()
    assert reads == [("run.nii", "blocks", range(3, 4))]


def test_a_failed_pass__ends_its_reading_thread(tmp_path: Path) -> None:
    import threading

    # Four blocks, of which the first is used when the checksum at the end is found wrong.
    path = write_run(tmp_path / "run.nii.gz")
    content = path.read_bytes()
    path.write_bytes(content[:-8] + b"wrong" + content[-3:])
    for _ in range(3):
        with pytest.raises(cg.ChunkglmError):
            cg.contrast(cg.fit(path, DESIGN, mask=MASK), "a").compute()
    gc.collect()
    assert not [t for t in threading.enumerate() if t.name == "chunkglm-prefetch"]


def test_counting__counts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counting(monkeypatch, dask, "compute")
    dask.compute(da.ones(2))
    assert len(calls) == 1
