"""Fits that were saved: the same contrasts from the store, with the run gone."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from helpers_lazy import (
    SHAPE,
    distances,
    lazily,
    make_data,
    make_design,
    make_mask,
    names_in,
    one_line,
    same_bytes,
    write_run,
)

import chunkglm as cg
from chunkglm.errors import StoreError
from chunkglm.io.manifest import NAME

# The moments are the same bytes and the factor is stored as it was; only what multiplies it may
# take another path through BLAS. The worst seen is 0.
FROM_STORE = 1e-12

DESIGN, MASK = make_design(), make_mask()
DEFICIENT = DESIGN.assign(slower=2 * DESIGN["drift"] + 1)
SPARSE = np.zeros(SHAPE[:3], bool)
SPARSE[1:4, 1:3, 1] = SPARSE[2, 2, 4] = True
SLABS = "slabs of one plane"
KINDS: dict[str, dict[str, Any]] = {
    "ar1": {},
    "ols": {"noise": "ols"},
    "bins": {"noise": cg.AR(1, bins=20)},
    "unscaled": {"scaling": None},
    "smoothed": {"smoothing_fwhm": 5.0},
    "rank-deficient": {"design": DEFICIENT},
    "no constant": {"design": DESIGN[["a", "b"]]},
    "one column": {"design": DESIGN[["constant"]]},
    "no mask": {"mask": None},
    "empty slabs": {"mask": SPARSE, SLABS: True},
    "slabs": {SLABS: True},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run.nii.gz", slope=np.float32(0.3), intercept=np.float32(5.1))


def contrasts(fit: cg.Fit) -> list[xr.Dataset]:
    """All kinds of maps that can be taken from a fit."""
    if fit.design.names == ("constant",):
        return [cg.contrast(fit, "constant")]
    return [cg.contrast(fit, "a - b"), cg.contrast(fit, ["a", "b"]),
            cg.contrast(fit, "a", stat_type="F")]  # fmt: skip


def model_maps(fit: cg.Fit) -> list[xr.DataArray]:
    return [fit.beta, fit.sigma2, fit.ar, fit.r_square, fit.voxel_status]


@pytest.mark.parametrize("kind", list(KINDS))
def test_open_fit__gives_the_maps_of_the_fit(
    tmp_path: Path, run: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"design": DESIGN, "mask": MASK, **KINDS[kind]}
    if options.pop(SLABS, False):
        monkeypatch.setattr("chunkglm.sizes.SMALLEST_SLAB_BYTES", 1)
        monkeypatch.setattr("chunkglm.sizes.SLAB_BYTES", 1)
    fit = cg.fit(run, **options)
    if kind == "empty slabs":
        assert 0 in fit.slabs.n_voxels
    assert fit.save(tmp_path / "fit.zarr") == str(tmp_path / "fit.zarr")
    assert cg.verify(tmp_path / "fit.zarr") == []
    expected = dask.compute(*contrasts(fit))
    models = dask.compute(*model_maps(fit))
    run.unlink()
    with lazily():
        found = cg.open_fit(tmp_path / "fit.zarr")
        repr(found)
        lazy, lazy_models = contrasts(found), model_maps(found)
    for a, b in zip(dask.compute(*lazy), expected, strict=True):
        assert distances(a, b) < FROM_STORE
        assert set(a) == set(b)
        xr.testing.assert_equal(a.coords.to_dataset(), b.coords.to_dataset())
        assert {k: v for k, v in a.attrs.items() if k != "run"} == {
            k: v for k, v in b.attrs.items() if k != "run"
        }
    for one, other in zip(dask.compute(*lazy_models), models, strict=True):
        xr.testing.assert_allclose(one, other, rtol=FROM_STORE, atol=0)
    for name in ("design", "noise", "scaling", "grid", "dof"):
        if name == "design":
            assert found.design.names == fit.design.names
            assert np.array_equal(found.design.values, fit.design.values)
        else:
            assert getattr(found, name) == getattr(fit, name), name
    assert np.array_equal(found.slabs.mask, fit.slabs.mask)
    assert found.slabs.planes == fit.slabs.planes
    # What it was opened from can be saved again, and loaded.
    found.save(tmp_path / "again.zarr")
    again = cg.open_fit(tmp_path / "again.zarr").load()
    for a, b in zip(dask.compute(*contrasts(again)), expected, strict=True):
        assert distances(a, b) < FROM_STORE


def test_open_fit__in_a_fresh_process_without_the_run(tmp_path: Path, run: Path) -> None:
    fit = cg.fit(run, DESIGN, mask=MASK)
    fit.save(tmp_path / "fit.zarr")
    expected = [cg.contrast(fit, c).compute() for c in ("a - b", ["a", "b"])]
    run.unlink()
    code = (
        "import sys, chunkglm as cg\n"
        "fit = cg.open_fit('fit.zarr')\n"
        "for name, c in (('t', 'a - b'), ('F', ['a', 'b'])):\n"
        "    cg.contrast(fit, c).compute().drop_attrs().to_netcdf(name + '.nc')\n"
    ).replace(".to_netcdf(name + '.nc')", ".to_zarr(name, consolidated=False)")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    for name, maps in zip("tF", expected, strict=True):
        found = xr.open_zarr(tmp_path / name, consolidated=False).load()
        assert distances(found, maps) < FROM_STORE
    # Negative control: another contrast is far from it.
    other = cg.contrast(cg.open_fit(tmp_path / "fit.zarr"), "a + b").compute()
    assert distances(other, expected[0]) > 0.1


def test_open_fit__reads_no_moments(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cg.fit(run, DESIGN, mask=MASK).save(tmp_path / "fit.zarr")
    seen: list[str] = []
    original = Path.read_bytes

    def noting(self: Path) -> bytes:
        seen.append(self.as_posix().partition("fit.zarr/")[2])
        return original(self)

    monkeypatch.setattr(Path, "read_bytes", noting)
    fit = cg.open_fit(tmp_path / "fit.zarr")
    maps = cg.contrast(fit, "a - b")
    repr(fit)
    assert not [key for key in seen if key.startswith("moments/c/")]
    maps.compute()
    assert [key for key in seen if key.startswith("moments/c/")]


@pytest.mark.parametrize(
    ("noise", "schedulers"),
    [("ar1", ("synchronous", "threads")), ("ols", ("synchronous", "threads", "processes"))],
)
def test_save__gives_the_same_chunks_under_any_scheduler(
    tmp_path: Path,
    run: Path,
    noise: str,
    schedulers: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chunkglm.sizes.SMALLEST_SLAB_BYTES", 1)
    monkeypatch.setattr("chunkglm.sizes.SLAB_BYTES", 1)
    store = cg.convert(run, tmp_path / "run.zarr", progress=False)
    for source, kinds in ((run, schedulers[:2]), (store, schedulers)):
        fit, chunks = cg.fit(source, DESIGN, mask=MASK, noise=noise), []
        for scheduler in kinds:
            target = tmp_path / "fit.zarr"
            with dask.config.set(scheduler=scheduler):
                fit.save(target, overwrite=True)
            chunks.append(
                {p.relative_to(target): p.read_bytes() for p in target.rglob("c/**/*")
                 if p.is_file()}
            )  # fmt: skip
        assert all(one == chunks[0] for one in chunks)
        assert len(chunks[0]) == 2 + (4 if source == run else 1)  # mask, model; slabs


def test_save__by_a_cluster_is_guarded_as_any(tmp_path: Path, run: Path) -> None:
    distributed = pytest.importorskip("distributed")
    fit = cg.fit(run, DESIGN, mask=MASK)
    fit.save(tmp_path / "here.zarr")
    with (
        dask.config.set({"distributed.worker.daemon": True}),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=True, host="127.0.0.1",
            dashboard_address=None,
        ) as cluster,
        distributed.Client(cluster),
    ):  # fmt: skip
        fit.save(tmp_path / "there.zarr")
        # A store object of this process is none of theirs: nothing arrives, and that is told.
        with pytest.raises(StoreError) as caught:
            fit.save(zarr.storage.MemoryStore())
        one_line(caught.value, "1 of 1 chunks of moments", "did not arrive", "share")
        found = cg.contrast(cg.open_fit(tmp_path / "there.zarr"), "a").compute()
    assert cg.verify(tmp_path / "there.zarr") == []
    assert same_bytes(found, cg.contrast(cg.open_fit(tmp_path / "here.zarr"), "a").compute())
    chunk = tmp_path / "there.zarr" / "moments" / "c" / "0" / "0" / "0"
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    assert cg.verify(tmp_path / "there.zarr") == [
        "moments/c/0/0/0 is not what was written (its checksum differs)"
    ]


def test_save__refuses_and_replaces(tmp_path: Path, run: Path) -> None:
    fits = [cg.fit(run, DESIGN, mask=MASK, noise=noise) for noise in ("ar1", "ols")]
    store = fits[0].save(tmp_path / "fit.zarr")
    opened = cg.open_fit(store)
    maps = cg.contrast(opened, "a")
    with pytest.raises(StoreError) as caught:
        fits[1].save(store)
    one_line(caught.value, store, "overwrite=True")
    assert cg.verify(store) == []
    fits[1].save(store, overwrite=True)
    assert cg.open_fit(store).noise == fits[1].noise
    # What was opened before is not mixed with what is there now.
    with pytest.raises(StoreError) as caught:
        maps.compute()
    one_line(caught.value, store, "written anew", "open it again")
    (tmp_path / "file").write_text("precious")
    for name in ("file", "none/fit.zarr"):
        with pytest.raises(StoreError) as caught:
            fits[0].save(tmp_path / name, overwrite=True)
        one_line(caught.value, tmp_path / name)
    assert names_in(tmp_path) == ["file", "fit.zarr", "run.nii.gz"]


def test_save__over_the_store_it_was_opened_from(tmp_path: Path, run: Path) -> None:
    store = cg.fit(run, DESIGN, mask=MASK).save(tmp_path / "fit.zarr")
    expected = cg.contrast(cg.open_fit(store), "a").compute()
    cg.open_fit(store).save(store, overwrite=True)
    assert same_bytes(cg.contrast(cg.open_fit(store), "a").compute(), expected)
    assert names_in(tmp_path) == ["fit.zarr", "run.nii.gz"]


def test_save__of_a_damaged_run_leaves_nothing(tmp_path: Path, run: Path) -> None:
    run.write_bytes(run.read_bytes()[:-8] + b"wrong123")
    with pytest.raises(cg.ChunkglmError) as caught:
        cg.fit(run, DESIGN, mask=MASK).save(tmp_path / "fit.zarr")
    one_line(caught.value, run)
    assert names_in(tmp_path) == ["run.nii.gz"]


def test_stores__of_the_wrong_kind_are_refused_with_the_right_way(
    tmp_path: Path, run: Path
) -> None:
    cg.convert(run, tmp_path / "run.zarr", progress=False)
    cg.fit(run, DESIGN, mask=MASK).save(tmp_path / "fit.zarr")
    zarr.create_group(tmp_path / "other.zarr")
    for call, name, parts in (
        (cg.open_fit, "run.zarr", ("must hold a fit", "'run'", "open it with open_run")),
        (cg.open_run, "fit.zarr", ("must hold a run", "'fit'", "open it with open_fit")),
        (cg.open_fit, "other.zarr", (NAME,)),
        (cg.open_fit, "none.zarr", ("no such store",)),
        (cg.open_fit, "run.nii.gz", ("is a file, not a store",)),
    ):
        with pytest.raises(StoreError) as caught:
            call(tmp_path / name)
        one_line(caught.value, tmp_path / name, *parts)


def test_open_fit__refuses_stores_of_another_format(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr("chunkglm.glm.stored.FORMAT", 1)
        store = cg.fit(run, DESIGN, mask=MASK).save(tmp_path / "fit.zarr")
    with pytest.raises(StoreError) as caught:
        cg.open_fit(store)
    one_line(caught.value, store, "format 3", "format 1", "make it again")


def test_opened_fit__travels_to_other_processes(tmp_path: Path, run: Path) -> None:
    fit = cg.fit(run, DESIGN, mask=MASK)
    fit.save(tmp_path / "fit.zarr")
    maps = cg.contrast(cg.open_fit(tmp_path / "fit.zarr"), "a - b")
    expected = cg.contrast(fit, "a - b").compute()
    assert distances(pickle.loads(pickle.dumps(maps)).compute(), expected) < FROM_STORE
    chunk = tmp_path / "fit.zarr" / "moments" / "c" / "0" / "0" / "0"
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    with pytest.raises(StoreError) as caught:
        maps.compute(scheduler="processes", num_workers=1)
    assert "moments/c/0/0/0 is not what was written" in str(caught.value)


def test_opened_fits__of_two_stores_do_not_share_their_tasks(tmp_path: Path) -> None:
    fits = []
    for seed in (0, 1):
        path = write_run(tmp_path / f"{seed}.nii", make_data(seed=seed))
        cg.fit(path, DESIGN, mask=MASK).save(tmp_path / f"{seed}.zarr")
        fits.append(cg.open_fit(tmp_path / f"{seed}.zarr"))
    apart = [cg.contrast(fit, "a").compute() for fit in fits]
    together = dask.compute(*(cg.contrast(fit, "a") for fit in fits))
    assert all(same_bytes(a, b) for a, b in zip(together, apart, strict=True))
    assert not same_bytes(*apart)
    fixed = cg.fixed_effects([cg.contrast(fit, "a") for fit in fits]).compute()
    direct = cg.fixed_effects(apart)
    assert distances(fixed, direct.compute()) < FROM_STORE
