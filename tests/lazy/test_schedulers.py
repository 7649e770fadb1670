"""One plan gives the same bytes whoever computes it: this thread, several, or other processes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
import xarray as xr
from helpers_lazy import make_data, make_design, make_mask, same_bytes, write_run

import chunkglm as cg

DESIGN, MASK = make_design(), make_mask()


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    with (
        dask.config.set({"distributed.worker.daemon": True}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def lazy_results(tmp_path_factory: pytest.TempPathFactory) -> list[xr.Dataset]:
    """Maps and fixed effects of runs in all forms, in slabs of a plane."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "one.nii.gz", slope=0.5, intercept=3.0)
    write_run(folder / "two.nii", make_data(seed=1, dtype="f4"))
    cg.convert(folder / "one.nii.gz", folder / "one.zarr", progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chunkglm.sizes.SMALLEST_SLAB_BYTES", 1)
        patch.setattr("chunkglm.blocks.SERIES_BYTES", 3000)
        fits = [
            cg.fit(folder / "one.nii.gz", DESIGN, mask=MASK),
            cg.fit(folder / "two.nii", DESIGN, mask=MASK, smoothing_fwhm=5.0),
            cg.fit(folder / "one.zarr", DESIGN, mask=MASK, smoothing_fwhm=5.0),
            cg.fit(cg.open_run(folder / "two.nii") * 2.0, DESIGN, mask=MASK),
        ]
        maps = [cg.contrast(fit, "a - b") for fit in fits]
        joint = [cg.contrast(fit, ["a", "b"]) for fit in fits[1:3]]
        # Of like smoothing: only like maps can be combined.
        pooled = [cg.fixed_effects(like) for like in ([maps[0], maps[3]], maps[1:3], joint)]
        return [*maps, *joint, *pooled]


@pytest.fixture(scope="module")
def expected(lazy_results: list[xr.Dataset]) -> list[xr.Dataset]:
    return list(dask.compute(*lazy_results, scheduler="synchronous"))


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_threads__give_the_same_bytes(
    lazy_results: list[xr.Dataset], expected: list[xr.Dataset], workers: int
) -> None:
    found = dask.compute(*lazy_results, scheduler="threads", num_workers=workers)
    assert all(same_bytes(a, b) for a, b in zip(found, expected, strict=True))


def test_distributed__gives_the_same_bytes_and_the_same_errors(
    lazy_results: list[xr.Dataset], expected: list[xr.Dataset], client: Any, tmp_path: Path
) -> None:
    found = client.gather(client.compute(lazy_results))
    assert all(same_bytes(a, b) for a, b in zip(found, expected, strict=True))

    path = write_run(tmp_path / "broken.nii.gz")
    content = path.read_bytes()
    path.write_bytes(content[:-8] + b"wrong" + content[-3:])
    maps = cg.contrast(cg.fit(path, DESIGN, mask=MASK), "a")
    with pytest.raises(cg.ChunkglmError, match=r"broken\.nii\.gz"):
        client.compute(maps).result(timeout=60)


def test_same_bytes__sees_a_bit(expected: list[xr.Dataset]) -> None:
    other = expected[0].copy(deep=True)
    other["stat"].to_numpy().reshape(-1).view("u8")[40] ^= 1
    assert not same_bytes(other, expected[0])


def test_synchronous__again_gives_the_same_bytes(
    lazy_results: list[xr.Dataset], expected: list[xr.Dataset]
) -> None:
    found = dask.compute(*lazy_results, scheduler="synchronous")
    assert all(same_bytes(a, b) for a, b in zip(found, expected, strict=True))
