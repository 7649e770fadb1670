"""Several contrasts in one pass: the same numbers as one by one, each voxel solved once."""

import json
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers_lazy import (
    AFFINE,
    MAPS,
    SHAPE,
    counting,
    distances,
    lazily,
    make_data,
    make_design,
    make_mask,
    one_line,
)

import chunkglm as cg
from chunkglm import sizes
from chunkglm.errors import ContrastError
from chunkglm.kernels import estimate as kernel

DESIGN, MASK = make_design(), make_mask()

T_CONTRASTS: dict[str, Any] = {
    "a": "a",
    "difference": "a - b",
    "mean over drift": [0.5, 0.5, -1, 0],
    "weights": {"b": 2, "drift": -1},
}
F_CONTRASTS: dict[str, Any] = {
    "any": ["a", "b"],
    "others": [[1, -1, 0, 0], [0, 0, 1.0, 0]],
    "again": np.eye(4)[1:3],
}

# One matrix product for all contrasts adds up in another order than one for each. Seen: 2e-15.
ANOTHER_PRODUCT = 1e-12

# F does not depend on the rows that span a contrast. What rows 1e-7 apart say of their difference
# keeps nine digits of their weights; worst seen 4e-9, relative.
NEARLY_DEPENDENT = 1e-6


@pytest.fixture(scope="module")
def fit() -> cg.Fit:
    run = xr.DataArray(
        make_data(), dims=("x", "y", "z", "time"), attrs={"affine": AFFINE.tolist()}, name="bold"
    )
    return cg.fit(run, DESIGN, mask=MASK)


@pytest.mark.parametrize("contrasts", [T_CONTRASTS, F_CONTRASTS])
def test_contrast__several_are_the_same_as_one_by_one(fit: Any, contrasts: dict[str, Any]) -> None:
    with lazily():
        maps = cg.contrast(fit, contrasts)
    assert maps["contrast"].to_numpy().tolist() == list(contrasts)
    assert maps["stat"].dims == ("contrast", "x", "y", "z")
    assert maps["dof"].dims == maps["voxel_status"].dims == ("x", "y", "z")
    assert all(isinstance(maps[name].data, da.Array) for name in MAPS)
    maps = maps.compute()
    for name, definition in contrasts.items():
        alone = cg.contrast(fit, definition).compute()
        one = maps.sel(contrast=name, drop=True)
        for variable in alone:
            assert one[variable].dims == alone[variable].dims
            np.testing.assert_allclose(one[variable], alone[variable], rtol=ANOTHER_PRODUCT)
        assert json.loads(maps.attrs["contrast"])[name] == alone.attrs["contrast"]
        for key in ("stat_type", "dof", "rank", "noise", "run", "affine"):
            assert maps.attrs[key] == alone.attrs[key]


def test_contrast__several_solve_each_voxel_once(fit: Any, monkeypatch: Any) -> None:
    loaded = fit.load()
    calls = counting(monkeypatch, kernel, "solve")
    cg.contrast(loaded, "a").compute(scheduler="synchronous")
    once = len(calls)
    cg.contrast(loaded, T_CONTRASTS).compute(scheduler="synchronous")
    assert len(calls) == 2 * once > 0


def test_contrast__one_by_name_keeps_its_dimension(fit: Any) -> None:
    maps = cg.contrast(fit, {"only": "a - b"})
    assert maps.sizes["contrast"] == 1
    assert cg.contrast(fit, {"a": 1, "b": -1}).attrs["contrast"] == "a: 1, b: -1"
    as_f = cg.contrast(fit, {"only": "a - b"}, stat_type="F").compute()
    assert as_f["effect_size"].dims == ("contrast", "row", "x", "y", "z")
    np.testing.assert_allclose(as_f["stat"], maps["stat"].compute() ** 2, rtol=1e-12)


def test_contrast__slabs_of_many_contrasts_are_cut(fit: Any, monkeypatch: Any) -> None:
    expected = cg.contrast(fit, T_CONTRASTS).compute()
    together = cg.contrast(fit, T_CONTRASTS)["stat"].chunks[-1]
    assert together == (SHAPE[2],)
    # Room for what four contrasts make of two planes, or so.
    monkeypatch.setattr(sizes, "SLAB_BYTES", 2 * SHAPE[0] * SHAPE[1] * 8 * 4 * 7)
    monkeypatch.setattr(sizes, "MAP_CHUNK_BYTES", 0)
    maps = cg.contrast(fit, T_CONTRASTS)
    assert max(maps["stat"].chunks[-1]) <= 2
    # Blocks of other lengths may round otherwise.
    for name in T_CONTRASTS:
        found = maps.sel(contrast=name).compute()
        assert distances(found, expected.sel(contrast=name)) < 1e-12
    np.testing.assert_array_equal(maps["voxel_status"], expected["voxel_status"])


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ({"one": "a", "all": ["a", "b"]}, ["'one': t of 1 row; 'all': F of 2 rows", "each kind"]),
        ({"two": ["a", "b"], "three": np.eye(4)[:3]}, ["'two': F of 2 rows; 'three': F of 3 rows"]),
        ({"a": 1, "b": "a - b"}, ["mixes weights by column ('a')", "definitions by name ('b')"]),
        ({"one": "a - house"}, ["'one': contrast 'a - house' has no column 'house'"]),
        ({"one": [1, 0]}, ["'one': contrast '[1, 0]' has 2 weights"]),
        ({"one": None}, ["'one': a contrast must be"]),
        ({"one": 1j}, ["'one': a contrast must be"]),
        ({"one": {"two": {"a": 1}}}, ["'one': "]),
        ({3: "a"}, ["names of contrasts must be text, but got 3"]),
        ({" ": "a"}, ["names of contrasts must be text"]),
        ({"x": "a", " x": "b"}, ["names of contrasts must differ"]),
        ({}, ["is zero"]),
    ],
)
def test_contrast__refuses_what_is_not_alike(fit: Any, definition: Any, words: list[str]) -> None:
    with pytest.raises(ContrastError) as caught:
        cg.contrast(fit, definition)
    one_line(caught.value, *words)


def test_contrast__stat_type_holds_for_all(fit: Any) -> None:
    assert cg.contrast(fit, T_CONTRASTS, stat_type="F").attrs["stat_type"] == "F"
    with pytest.raises(ContrastError) as caught:
        cg.contrast(fit, F_CONTRASTS, stat_type="t")
    one_line(caught.value, "'any': ", "a t statistic has one")


# --- rows of F that are nearly, or under the design wholly, dependent ----------------------------


@pytest.mark.parametrize("off", [1e-3, 1e-7, 1e-9])
def test_contrast__f_of_nearly_dependent_rows_is_exact(fit: Any, off: float) -> None:
    apart = cg.contrast(fit, [[1.0, 0, 0, 0], [0, 1, -1, 0]]).compute()
    near = np.array([[1.0, 0, 0, 0], [1, off, -off, 0]])
    if off < 1e-5:
        with pytest.warns(UserWarning, match="rows are all but dependent"):
            maps = cg.contrast(fit, near).compute()
    else:
        maps = cg.contrast(fit, near).compute()
    tolerance = NEARLY_DEPENDENT * max(1, 1e-7 / off)
    np.testing.assert_allclose(maps["stat"], apart["stat"], rtol=tolerance)
    np.testing.assert_allclose(maps["z_score"], apart["z_score"], rtol=tolerance, atol=tolerance)
    # Effects are those of the rows as they were given.
    for row, weights in enumerate(near):
        alone = cg.contrast(fit, weights).compute()
        error = np.sqrt(alone["effect_variance"])
        worst = np.nanmax(np.abs(maps["effect_size"][row] - alone["effect_size"]) / error)
        assert worst < 1e-10
        np.testing.assert_allclose(
            maps["effect_variance"][row, row], alone["effect_variance"], rtol=1e-10
        )


def test_contrast__f_is_the_same_whatever_rows_span_it(fit: Any) -> None:
    rows = np.array([[1.0, 0, 0, 0], [0, 1, -1, 0]])
    expected = cg.contrast(fit, rows).compute()
    for mixing in ([[1e6, 3], [1, 1e-6]], [[1, 1], [1, -1]], [[0, 1e-12], [1e12, 1]]):
        found = cg.contrast(fit, np.array(mixing) @ rows).compute()
        np.testing.assert_allclose(found["stat"], expected["stat"], rtol=1e-9)


def test_contrast__refuses_rows_that_differ_by_rounding(fit: Any) -> None:
    with pytest.raises(ContrastError) as caught:
        cg.contrast(fit, [[1.0, 0, 0, 0], [1, 1e-12, 0, 0]])
    one_line(caught.value, "2 rows but rank 1 under DataFrame")


def test_contrast__several_of_a_stored_fit(fit: Any, tmp_path: Path) -> None:
    fit.save(tmp_path / "fit.zarr")
    found = cg.contrast(cg.open_fit(tmp_path / "fit.zarr"), T_CONTRASTS).compute()
    expected = cg.contrast(fit, T_CONTRASTS).compute()
    for name in T_CONTRASTS:
        assert distances(found.sel(contrast=name), expected.sel(contrast=name)) < 1e-12


def test_contrast__names_may_be_anything(fit: Any) -> None:
    names = ["x", "größe > 0", "a - b", "  spaces ", "1", pd.Timestamp("2020").isoformat()]
    maps = cg.contrast(fit, dict.fromkeys(names, "a"))
    assert maps["contrast"].to_numpy().tolist() == [name.strip() for name in names]
