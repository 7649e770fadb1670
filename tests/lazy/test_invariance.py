"""The same maps however the data are chunked, stored, blocked or cut into slabs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from helpers_lazy import (
    SHAPE,
    distances,
    make_data,
    make_design,
    make_mask,
    small_plans,
    store_chunkings,
    write_run,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import chunkglm as cg

# Sums over time are added in another order: effects (in standard errors), variances (relative) and
# z differ by rounding. Noise is 2 % of the level, sums are about the first volume, so that few
# digits are lost; the worst seen is 6e-14, with smoothing and without.
ROUNDING = 1e-12

DESIGN, MASK = make_design(), make_mask()
SLOPE, INTERCEPT = np.float32(0.37), np.float32(-11.3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("run.nii", "run.nii.gz"):
        write_run(folder / name, slope=SLOPE, intercept=INTERCEPT)
        write_run(folder / f"float-{name}", make_data(dtype=np.float32))
    cg.convert(folder / "run.nii", folder / "run.zarr", progress=False)
    cg.convert(folder / "float-run.nii", folder / "float-run.zarr", progress=False)
    return folder


def maps_of(run: Any, fwhm: float | None = None, definition: Any = "a - b", **kwargs: Any) -> Any:
    fit = cg.fit(run, DESIGN, mask=kwargs.pop("mask", MASK), smoothing_fwhm=fwhm, **kwargs)
    return cg.contrast(fit, definition).compute()


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[Any, xr.Dataset]:
    """Maps from data in memory, in one piece."""
    out = {}
    for kind in ("", "float-"):
        data = cg.open_run(folder / f"{kind}run.nii").load()
        for fwhm in (None, 5.0):
            out[kind, fwhm] = maps_of(data, fwhm)
    return out


chunkings = st.fixed_dictionaries(
    {d: st.integers(1, n) for d, n in zip(("x", "y", "z", "time"), SHAPE, strict=True)}
)


@pytest.mark.parametrize("fwhm", [None, 5.0])
@given(
    chunks=chunkings, slab=st.sampled_from([1, 1000, 5000, 10**9]), series=st.integers(1, 50_000)
)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_dask_array__any_chunking_gives_the_same_maps(
    folder: Path,
    expected: dict[Any, xr.Dataset],
    fwhm: float | None,
    chunks: dict[str, int],
    slab: int,
    series: int,
) -> None:
    with small_plans(slab, series):
        run = cg.open_run(folder / "run.nii.gz").load().chunk(chunks)
        assert distances(maps_of(run, fwhm), expected["", fwhm]) < ROUNDING


@pytest.mark.parametrize("fwhm", [None, 5.0])
@pytest.mark.parametrize("kind", ["", "float-"])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "zarr"])
@pytest.mark.parametrize(("slab", "series"), [(1, 1), (3000, 3000), (10**9, 10**9)])
def test_sources__all_forms_and_plans_give_the_same_maps(
    folder: Path,
    expected: dict[Any, xr.Dataset],
    suffix: str,
    kind: str,
    fwhm: float | None,
    slab: int,
    series: int,
) -> None:
    with small_plans(slab, series):
        found = maps_of(folder / f"{kind}run.{suffix}", fwhm)
    assert distances(found, expected[kind, fwhm]) < ROUNDING


@given(
    chunks=store_chunkings,
    slab=st.sampled_from([1, 2000, 10**9]),
    series=st.integers(1, 50_000),
    fwhm=st.sampled_from([None, 5.0]),
    mask_seed=st.integers(0, 5),
)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_store__any_chunks_give_the_same_maps(
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    chunks: tuple[int, int, int, int],
    slab: int,
    series: int,
    fwhm: float | None,
    mask_seed: int,
) -> None:
    from chunkglm.io.nifti import open_nifti
    from chunkglm.io.place import place_of
    from chunkglm.io.store import write_store

    store = tmp_path_factory.mktemp("store") / "run.zarr"
    source = open_nifti(folder / "run.nii")
    write_store(source, place_of(store), chunks, overwrite=False, advance=lambda _: None)
    mask = np.random.default_rng(mask_seed).random(SHAPE[:3]) < 0.2
    mask[2, 2, 3] = True
    expected = maps_of(cg.open_run(folder / "run.nii").load(), fwhm, mask=mask)
    with small_plans(slab, series):
        assert distances(maps_of(store, fwhm, mask=mask), expected) < ROUNDING


@pytest.mark.parametrize("definition", ["a", ["a", "b"]])
@pytest.mark.parametrize("noise", ["ols", "ar1", cg.AR(1, bins=4)])
@pytest.mark.parametrize("scaling", ["percent", None])
def test_plans__models_and_contrasts_are_the_same_in_slabs(
    folder: Path, definition: Any, noise: Any, scaling: str | None
) -> None:
    options: dict[str, Any] = {"definition": definition, "noise": noise, "scaling": scaling}
    expected = maps_of(cg.open_run(folder / "run.nii").load(), **options)
    with small_plans(1, 1):
        for name in ("run.nii", "run.nii.gz", "run.zarr"):
            assert distances(maps_of(folder / name, **options), expected) < ROUNDING


def test_design_without_a_constant__is_the_same_in_blocks(folder: Path) -> None:
    design = DESIGN[["a", "b"]]
    run = cg.open_run(folder / "run.nii").load()
    expected = cg.contrast(cg.fit(run, design, mask=MASK), "a").compute()
    with small_plans(1, 1):
        found = cg.contrast(cg.fit(folder / "run.nii.gz", design, mask=MASK), "a").compute()
    assert distances(found, expected) < ROUNDING


@given(cut=st.lists(st.integers(1, 5), min_size=3, max_size=3), weighted=st.booleans())
@settings(max_examples=10, deadline=None)
def test_fixed_effects__any_chunks_give_the_same_bytes(
    expected: dict[Any, xr.Dataset], cut: list[int], weighted: bool
) -> None:
    whole = [expected["", None], expected["float-", None]]
    chunked = [
        whole[0].chunk(dict(zip(("x", "y", "z"), cut, strict=True))),
        whole[1].chunk(dict(zip(("z", "x", "y"), cut, strict=True))),
    ]
    one = cg.fixed_effects(whole, precision_weighted=weighted).compute()
    two = cg.fixed_effects(chunked, precision_weighted=weighted).compute()
    for name in one:
        assert one[name].to_numpy().tobytes() == two[name].to_numpy().tobytes()


# --- the comparison sees what it should -------------------------------------------------------


def test_comparison__sees_a_missing_halo(
    folder: Path, expected: dict[Any, xr.Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    import chunkglm.kernels.voxels as voxels

    whole: Callable[..., Any] = voxels.axis_smoother

    def of_the_slab_only(n: int, sigma: float, wanted: range, available: range) -> Any:
        if len(available) == n:
            return whole(n, sigma, wanted, available)
        n = len(available)
        return whole(n, sigma, range(n), range(n))

    monkeypatch.setattr(voxels, "kernel_radius", lambda sigma: 0)
    monkeypatch.setattr(voxels, "axis_smoother", of_the_slab_only)
    with small_plans(1, 1):
        found = maps_of(folder / "run.nii", 5.0)
    assert distances(found, expected["", 5.0]) > 1e6 * ROUNDING


@pytest.mark.parametrize("fwhm", [None, 5.0])
@pytest.mark.parametrize("name", ["run.nii", "run.nii.gz", "run.zarr"])
def test_maps__in_parts_by_two_threads_as_large_volumes_are(
    folder: Path,
    expected: dict[Any, xr.Dataset],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    fwhm: float | None,
) -> None:
    monkeypatch.setattr("chunkglm.lazy.collecting.SAMPLES_FOR_TWO", 1)
    found = maps_of(folder / name, fwhm)
    assert distances(found, expected["", fwhm]) <= ROUNDING
    with small_plans(1, 3000):
        found = maps_of(folder / name, fwhm)
    assert distances(found, expected["", fwhm]) <= ROUNDING


def test_comparison__sees_a_lost_pair_between_blocks(
    folder: Path, expected: dict[Any, xr.Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    import chunkglm.lazy.collecting as collecting

    whole: Callable[..., Any] = collecting.add_block

    def forgetful(before: Any, *args: Any) -> Any:
        before.tail[:] = 0.0
        return whole(before, *args)

    monkeypatch.setattr(collecting, "add_block", forgetful)
    with small_plans(1, 3000):
        found = maps_of(folder / "run.nii.gz")
    assert distances(found, expected["", None]) > 1e6 * ROUNDING


def test_comparison__sees_one_voxel_more(expected: dict[Any, xr.Dataset]) -> None:
    one = expected["", None]
    lost = one.copy(deep=True)
    lost["effect_size"][2, 2, 3] = np.nan
    assert distances(lost, one) == np.inf
