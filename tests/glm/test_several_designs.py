"""Several designs in one pass over the run: the same as fitting each, and read once."""

from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers_lazy import (
    counting,
    distances,
    lazily,
    make_design,
    make_mask,
    one_line,
    write_run,
)

import chunkglm as cg
from chunkglm.errors import DesignError
from chunkglm.io.nifti import NiftiRun
from chunkglm.io.store import StoreRun

MASK = make_mask()
DESIGN = make_design()
DESIGNS = {
    "whole": DESIGN,
    "more": DESIGN.assign(c=np.sin(np.arange(30.0)), d=np.arange(30.0) % 4),
    "less": DESIGN[["b", "constant"]],
    "no constant": DESIGN[["a", "b"]],
    "almost the same": DESIGN.assign(b=DESIGN["b"] + 1e-6 * np.sin(np.arange(30.0))),
}

# Sums of other products, combined once more. Seen: 4e-14.
ROUNDING = 1e-11


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("run.nii", "run.nii.gz"):
        write_run(folder / name)
    cg.convert(folder / "run.nii", folder / "run.zarr", progress=False)
    return folder


@pytest.mark.parametrize("noise", ["ols", "ar1", "ar3"])
@pytest.mark.parametrize("scaling", ["percent", None])
@pytest.mark.parametrize("form", ["run.nii", "run.nii.gz", "run.zarr", "array"])
def test_several_designs__are_each_the_fit_of_one(
    folder: Path, form: str, scaling: str | None, noise: str
) -> None:
    run: Any = folder / form
    if form == "array":
        run = cg.open_run(folder / "run.nii").load().chunk({"time": 7})
    options: Any = {"mask": MASK, "noise": noise, "scaling": scaling, "smoothing_fwhm": 4.0}
    fits = cg.fit(run, DESIGNS, **options)
    assert list(fits) == list(DESIGNS)
    for name, design in DESIGNS.items():
        found, expected = fits[name], cg.fit(run, design, **options)
        assert found.design.names == expected.design.names
        assert found.dof == expected.dof
        maps = [cg.contrast(fit, ["b"]).compute() for fit in (found, expected)]
        assert distances(*maps) < ROUNDING, name
        for field in ("beta", "ar", "r_square"):
            values = [getattr(fit, field).compute() for fit in (found, expected)]
            xr.testing.assert_allclose(*values, rtol=1e-9, atol=1e-9)


def test_several_designs__with_dropped_volumes(folder: Path) -> None:
    keep = np.ones(30, dtype=bool)
    keep[[3, 4, 17]] = False
    fits = cg.fit(folder / "run.nii", list(DESIGNS.values()), mask=MASK, sample_mask=keep)
    for found, design in zip(fits, DESIGNS.values(), strict=True):
        expected = cg.fit(folder / "run.nii", design, mask=MASK, sample_mask=keep)
        maps = [cg.contrast(fit, "b").compute() for fit in (found, expected)]
        assert distances(*maps) < ROUNDING


@pytest.mark.parametrize(
    ("form", "owner"), [("run.nii", NiftiRun), ("run.nii.gz", NiftiRun), ("run.zarr", StoreRun)]
)
def test_several_designs__read_the_run_once(
    folder: Path, form: str, owner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [counting(monkeypatch, owner, name) for name in ("blocks", "read")]
    with dask.config.set(scheduler="synchronous"):
        cg.fit(folder / form, DESIGN, mask=MASK).load()
        once = [len(noted) for noted in calls]
        assert sum(once) > 0
        fits = cg.load_together(cg.fit(folder / form, DESIGNS, mask=MASK))
        assert [len(noted) for noted in calls] == [2 * n for n in once]
        # Apart they read it again each time.
        for fit in cg.fit(folder / form, DESIGNS, mask=MASK).values():
            fit.load()
        assert [len(noted) for noted in calls] == [(2 + len(DESIGNS)) * n for n in once]
        # Once loaded, nothing is read any more.
        for fit in fits.values():
            cg.contrast(fit, "b").compute()
        assert [len(noted) for noted in calls] == [(2 + len(DESIGNS)) * n for n in once]


def test_several_designs__contrasts_computed_together_read_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counting(monkeypatch, NiftiRun, "blocks")
    with lazily():
        fits = cg.fit(folder / "run.nii.gz", DESIGNS, mask=MASK)
        maps = [cg.contrast(fit, "b") for fit in fits.values()]
    with dask.config.set(scheduler="synchronous"):
        dask.compute(*maps)
    assert len(calls) == 1


def test_several_designs__may_span_all_volumes(tmp_path: Path) -> None:
    # Together they leave no residuals; each does.
    run = write_run(tmp_path / "run.nii")
    rng = np.random.default_rng(0)
    designs = [
        pd.DataFrame(rng.standard_normal((30, 12)), columns=[f"x{j}" for j in range(12)])
        for _ in range(4)
    ]
    for found, design in zip(cg.fit(run, designs, mask=MASK), designs, strict=True):
        expected = cg.fit(run, design, mask=MASK)
        maps = [cg.contrast(fit, "x3").compute() for fit in (found, expected)]
        assert distances(*maps) < ROUNDING


def test_several_designs__wrong_ones_are_named(folder: Path) -> None:
    run = folder / "run.nii"
    for bad, part in (
        ({}, "dict"),
        ([], "list"),
        ({"good": DESIGN, "short": DESIGN.iloc[:20]}, "design 'short'"),
        ([DESIGN, None], "design 1"),
        ([[1.0]], "design 0"),
    ):
        with pytest.raises(DesignError) as caught:
            cg.fit(run, bad)
        one_line(caught.value, part)
    with pytest.raises(DesignError) as caught:
        cg.load_together([DESIGN])  # type: ignore[list-item]
    one_line(caught.value, "DataFrame")


def test_several_designs__a_dependent_column_is_told_at_the_callers_line(folder: Path) -> None:
    designs = {"good": DESIGN, "bad": DESIGN.assign(twice=2 * DESIGN["b"])}
    with pytest.warns(UserWarning, match="rank 4") as seen:
        cg.fit(folder / "run.nii", designs)
    assert seen[0].filename == __file__
