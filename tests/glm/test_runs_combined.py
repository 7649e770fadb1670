"""Runs with unlike designs, runs added and taken out, all runs against one model of them."""

import time
import warnings
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers.gls import scaled, whitener
from helpers_lazy import (
    SHAPE,
    counting,
    distances,
    lazily,
    make_data,
    make_design,
    make_mask,
    one_line,
    truth_of,
    write_run,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import block_diag

import chunkglm as cg
from chunkglm.errors import ContrastError, MapsError

# The same sums in another order.
REORDERED = 1e-13
# Sums that runs were taken out of, against the others combined.
TAKEN_OUT = 1e-10
# Beside one model of 146 volumes with dense matrices.
ONE_MODEL = 1e-9

LENGTHS = (30, 34, 41, 30, 37, 33)


def write(folder: Path, i: int) -> Path:
    return write_run(folder / f"run-{i}.nii", make_data((*SHAPE[:3], LENGTHS[i]), seed=i))


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> list[cg.Fit]:
    """Runs of unlike length and mask; the first voxel is in none, one is constant in two."""
    folder, found = tmp_path_factory.mktemp("runs"), []
    for i, n_scans in enumerate(LENGTHS):
        mask = make_mask()
        mask[i % 5, 2, 2:4] = mask[0, 0, 0] = False
        found.append(cg.fit(write(folder, i), make_design(n_scans), mask=mask))
    return found


@pytest.fixture(scope="module")
def maps(fits: list[cg.Fit]) -> dict[str, list[xr.Dataset]]:
    return {
        kind: [cg.contrast(fit, what).compute() for fit in fits]
        for kind, what in (("t", "a - b"), ("F", ["a", "b"]))
    }


def same(found: xr.Dataset, expected: xr.Dataset, within: float) -> None:
    assert distances(found, expected) < within
    for name in ("n_runs", "dof"):
        assert found[name].equals(expected[name]), name
    assert cg.contributions(found).equals(cg.contributions(expected))
    assert found.attrs["dof"] == expected.attrs["dof"]


# --- added, dropped, left out -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["t", "F"])
@pytest.mark.parametrize("weighted", [False, True])
@given(
    order=st.permutations(range(6)),
    n_in=st.integers(2, 6),
    n_out=st.integers(1, 3),
    together=st.booleans(),
)
@settings(max_examples=8, deadline=None)
def test_drop_runs__leaves_what_the_others_combine_to(
    maps: dict[str, list[xr.Dataset]], kind: str, weighted: bool, order: list[int], n_in: int,
    n_out: int, together: bool,
) -> None:  # fmt: skip
    runs = [maps[kind][i] for i in order[:n_in]]
    n_out = min(n_out, n_in - 1)
    with lazily():
        whole = cg.fixed_effects(runs, precision_weighted=weighted)
        dropped: Any = runs[:n_out]
        if together:
            dropped = cg.fixed_effects(dropped, precision_weighted=weighted)
        found = cg.drop_runs(whole, dropped)
        expected = cg.fixed_effects(runs[n_out:], precision_weighted=weighted)
    same(found.compute(), expected.compute(), TAKEN_OUT)
    # And put in again.
    back = cg.fixed_effects([*runs[:n_out], found], precision_weighted=weighted)
    same(back.compute(), whole.compute(), TAKEN_OUT)


@pytest.mark.parametrize("kind", ["t", "F"])
@pytest.mark.parametrize("weighted", [False, True])
def test_leave_one_run_out__is_each_time_what_the_others_combine_to(
    maps: dict[str, list[xr.Dataset]], kind: str, weighted: bool
) -> None:
    runs = maps[kind]
    with lazily():
        found = cg.leave_one_run_out(runs, precision_weighted=weighted)
        one_by_one = [
            cg.fixed_effects([*runs[:i], *runs[i + 1 :]], precision_weighted=weighted)
            for i in range(6)
        ]
    found, expected = dask.compute(found, one_by_one)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        same(a, b, REORDERED)
        assert a["voxel_status"].equals(b["voxel_status"])
        told = {**b.attrs, "left_out": runs[i].attrs["run"]}
        # Of the first of all runs, whichever is left out.
        told["nifti_header"] = runs[0].attrs["nifti_header"]
        assert a.attrs == told
    # As a user looks at them.
    spread = xr.concat(found, "left_out")["z_score"].std("left_out")
    assert 0.05 < float(spread.max()) < 5


def test_leave_one_run_out__reads_each_run_once(
    fits: list[cg.Fit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import chunkglm.glm.combined as combined

    calls = counting(monkeypatch, combined._Combine, "__call__")
    found = cg.leave_one_run_out([cg.contrast(fit, "a") for fit in fits])
    n_slabs = len(found[0]["stat"].chunks[-1])
    dask.compute(*found)
    assert len(calls) == n_slabs


def test_drop_runs__where_most_of_the_variance_went_is_nan_and_told(
    maps: dict[str, list[xr.Dataset]], tmp_path: Path
) -> None:
    at = (1, 1, 3)
    wild = maps["t"][0].copy(deep=True)
    wild["effect_variance"][at] *= 1e9
    whole = cg.fixed_effects([wild, *maps["t"][1:]])
    found = cg.drop_runs(whole, wild).compute()
    assert int(found["voxel_status"][at]) == 9
    assert np.isnan(found["stat"][at])
    expected = cg.fixed_effects(maps["t"][1:]).compute()
    elsewhere = found["voxel_status"] != 9
    assert int((~elsewhere).sum()) == 1
    assert distances(found.where(elsewhere), expected.where(elsewhere)) < TAKEN_OUT
    with pytest.warns(UserWarning, match="in 1 voxels too little is left"):
        cg.save(found, tmp_path, prefix="p")
    assert int(cg.open_maps(tmp_path, prefix="p")["voxel_status"][at]) == 9


def test_drop_runs__refuses_what_was_never_in(maps: dict[str, list[xr.Dataset]]) -> None:
    runs = maps["t"]
    whole = cg.fixed_effects(runs[:3])
    with pytest.raises(MapsError) as caught:
        cg.drop_runs(whole, runs[4])
    one_line(caught.value, runs[4].attrs["run"], "not among", runs[0].attrs["run"])
    with pytest.raises(MapsError) as caught:
        cg.drop_runs(whole, [runs[1], runs[1]])
    one_line(caught.value, runs[1].attrs["run"], "not among")
    with pytest.raises(MapsError) as caught:
        cg.drop_runs(whole, runs[:3])
    one_line(caught.value, "nothing would be left")
    with pytest.raises(MapsError) as caught:
        cg.drop_runs(runs[0], runs[1])
    one_line(caught.value, runs[0].attrs["run"], "fixed_effects")
    with pytest.raises(MapsError, match="kinds of statistic differ"):
        cg.drop_runs(whole, maps["F"][0])
    with pytest.raises(MapsError, match="list"):
        cg.drop_runs(whole, "run-1")  # type: ignore[arg-type]
    part = cg.fixed_effects(runs[:2], precision_weighted=True)
    with pytest.raises(MapsError, match="precision_weighted=True"):
        cg.drop_runs(whole, part)


def test_leave_one_run_out__of_one_run_is_refused(maps: dict[str, list[xr.Dataset]]) -> None:
    with pytest.raises(MapsError, match="only run"):
        cg.leave_one_run_out(maps["t"][:1])


@pytest.mark.parametrize("weighted", [False, True])
def test_leave_one_run_out__from_files_equals_a_refit(
    tmp_path: Path, fits: list[cg.Fit], weighted: bool
) -> None:
    contrasts = [cg.contrast(fit, "a - b") for fit in fits]
    for i, one in enumerate(contrasts):
        cg.save(one, tmp_path, prefix=f"run-{i}")
    cg.save(cg.fixed_effects(contrasts, precision_weighted=weighted), tmp_path, prefix="all")
    stored = [cg.open_maps(tmp_path, prefix=f"run-{i}") for i in range(6)]
    others = cg.leave_one_run_out(stored, precision_weighted=weighted)
    for i in (0, 4):
        again = [
            cg.fit(fit.dataset.attrs["run"], make_design(n_scans), mask=fit.slabs.mask)
            for fit, n_scans in zip(fits, LENGTHS, strict=True)
            if fit is not fits[i]
        ]
        again = [cg.contrast(fit, "a - b") for fit in again]
        refit = cg.fixed_effects(again, precision_weighted=weighted).compute()
        dropped = cg.drop_runs(cg.open_maps(tmp_path, prefix="all"), stored[i])
        for found in (others[i], dropped):
            assert distances(found.compute(), refit) < TAKEN_OUT
            assert found["n_runs"].equals(refit["n_runs"])


# --- one model of all runs --------------------------------------------------------------------


def test_fixed_effects__joint_f_is_that_of_the_concatenated_runs(
    fits: list[cg.Fit], maps: dict[str, list[xr.Dataset]]
) -> None:
    """All runs as one model, its conditions shared, each run's noise as that run has it."""
    found = cg.fixed_effects(maps["F"], precision_weighted=True).compute()
    where = np.argwhere((found["n_runs"] == 6).to_numpy())[::7]
    assert len(where) > 3
    noise = [(f.sigma2.compute(), f.ar.compute()[0]) for f in fits]
    runs = [truth_of(Path(f.dataset.attrs["run"])) for f in fits]
    for at in map(tuple, where):
        precisions, series = [], []
        for (sigma2, rho), data in zip(noise, runs, strict=True):
            W = whitener(float(rho[at]), data.shape[3])
            precisions.append(W.T @ W / float(sigma2[at]))
            series.append(scaled(data[at].astype(float)[:, None], percent=True)[:, 0])
        X = np.hstack(
            [
                np.vstack([f.design.values[:, :2] for f in fits]),
                block_diag(*(f.design.values[:, 2:] for f in fits)),
            ]
        )
        precision, y = block_diag(*precisions), np.concatenate(series)
        covariance = np.linalg.inv(X.T @ precision @ X)
        beta, spread = (covariance @ X.T @ precision @ y)[:2], covariance[:2, :2]
        f = beta @ np.linalg.inv(spread) @ beta / 2
        assert float(found["stat"][at]) == pytest.approx(f, rel=ONE_MODEL)
        np.testing.assert_allclose(found["effect_size"].to_numpy()[:, *at], beta, rtol=ONE_MODEL)
        np.testing.assert_allclose(
            found["effect_variance"].to_numpy()[:, :, *at], spread, rtol=ONE_MODEL
        )


# --- unlike designs ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unlike(tmp_path_factory: pytest.TempPathFactory) -> list[cg.Fit]:
    """One contrast, four designs: as ever, other order, without b, b only as twice a."""
    folder = tmp_path_factory.mktemp("unlike")
    tables = [make_design(n) for n in LENGTHS[:4]]
    tables[1] = tables[1][["constant", "b", "drift", "a"]].assign(more=np.cos(np.arange(34)))
    tables[2] = tables[2].drop(columns="b")
    tables[3] = tables[3].assign(b=2 * tables[3]["a"])
    found = []
    for i, table in enumerate(tables):
        table.to_csv(folder / f"design-{i}.csv", index=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(cg.fit(write(folder, i), folder / f"design-{i}.csv", mask=make_mask()))
    return found


@pytest.mark.parametrize("definition", ["a - b", {"b": -1, "a": 1}, ["a", "b"]])
@pytest.mark.parametrize("weighted", [False, True])
def test_fixed_effects__of_unlike_designs_skip_and_say_so(
    unlike: list[cg.Fit], definition: Any, weighted: bool
) -> None:
    with lazily(), pytest.warns(UserWarning, match="2 of 4 runs are left out") as seen:
        found = cg.fixed_effects(
            unlike, contrast=definition, missing="skip", precision_weighted=weighted
        )
    assert len(seen) == 1
    for i in (2, 3):
        assert f"run-{i}.nii" in str(seen[0].message)
    assert seen[0].filename == __file__
    runs = [cg.contrast(fit, definition) for fit in unlike[:2]]
    expected = cg.fixed_effects(runs, precision_weighted=weighted).compute()
    assert distances(found.compute(), expected) == 0.0
    table = cg.contributions(found)
    assert table["contributed"].tolist() == [True, True, False, False]
    assert table["dof"].tolist() == [26.0, 29.0, 38.0, 27.0]
    assert [Path(run).name for run in table["run"]] == [
        "run-0.nii", "run-1.nii", "run-2.nii", "run-3.nii"
    ]  # fmt: skip
    assert table["reason"].tolist()[:2] == ["", ""]
    assert "no column 'b'" in table["reason"][2]
    assert "not estimable" in table["reason"][3]
    assert found.attrs["dof"] == 55.0


def test_fixed_effects__of_unlike_designs_refuse_by_name(unlike: list[cg.Fit]) -> None:
    with pytest.raises(ContrastError) as caught:
        cg.fixed_effects(unlike[:3], contrast="a - b")
    one_line(caught.value, "run-2.nii", "'b'", "design-2.csv", 'missing="skip"')
    with pytest.raises(ContrastError) as caught:
        cg.fixed_effects([unlike[0], unlike[3]], contrast="a - b", missing="error")
    one_line(caught.value, "run-3.nii", "not estimable", "design-3.csv")
    found = cg.fixed_effects(unlike[:2], contrast="a - b")
    assert cg.contributions(found)["contributed"].all()


def test_fixed_effects__what_no_design_can_be_asked_is_an_error(unlike: list[cg.Fit]) -> None:
    for definition in ("a - c", "a -", "__import__('os')", "9**9**9"):
        with pytest.raises(ContrastError) as caught:
            cg.fixed_effects(unlike, contrast=definition, missing="skip")
        one_line(caught.value, "run-0.nii")
        assert "missing=" not in str(caught.value)


def test_fixed_effects__a_vector_over_columns_in_another_order_is_not_combined(
    unlike: list[cg.Fit],
) -> None:
    # Four weights fit three of the designs, and mean another contrast in one of them.
    with pytest.raises(ContrastError, match="4 weights"):
        cg.fixed_effects(unlike[:2], contrast=[1, -1, 0, 0])
    turned = make_design(30)[["b", "a", "drift", "constant"]]
    other = cg.fit(unlike[0].dataset.attrs["run"], turned, mask=make_mask())
    with pytest.raises(MapsError, match="contrasts differ"):
        cg.fixed_effects([unlike[0], other], contrast=[1.0, 0, 0, 0])


def test_fixed_effects__fits_join_what_is_combined_already(unlike: list[cg.Fit]) -> None:
    part = cg.fixed_effects(unlike[:1], contrast="a - b")
    found = cg.fixed_effects([part, unlike[1]], contrast="a - b").compute()
    expected = cg.fixed_effects(unlike[:2], contrast="a - b").compute()
    same(found, expected, REORDERED)
    # What was left out stays known, in parts and once more in the whole.
    with pytest.warns(UserWarning, match="left out"):
        left = cg.fixed_effects([part, unlike[2]], contrast="a - b", missing="skip")
    whole = cg.fixed_effects([left, unlike[1]], contrast="a - b")
    assert sorted(cg.contributions(whole)["contributed"]) == [False, True, True]


def test_fixed_effects__say_what_is_amiss_with_the_arguments(
    unlike: list[cg.Fit], maps: dict[str, list[xr.Dataset]]
) -> None:
    with pytest.raises(MapsError) as caught:
        cg.fixed_effects(unlike[:2])
    one_line(caught.value, "run-0.nii", "contrast=")
    with pytest.raises(MapsError, match="contrast is for fits"):
        cg.fixed_effects(maps["t"], contrast="a - b")
    with pytest.raises(MapsError, match='"error" or "skip", but got \'warn\''):
        cg.fixed_effects(unlike, contrast="a", missing="warn")  # type: ignore[arg-type]


def test_contributions__of_one_run_and_of_what_is_no_map(
    maps: dict[str, list[xr.Dataset]],
) -> None:
    table = cg.contributions(maps["t"][0])
    assert isinstance(table, pd.DataFrame)
    assert table.iloc[0].tolist() == [maps["t"][0].attrs["run"], "DataFrame", 26.0, True, ""]
    for bad in (None, xr.Dataset(), [maps["t"][0]]):
        with pytest.raises(MapsError, match="must be a Dataset from contrast"):
            cg.contributions(bad)  # type: ignore[arg-type]
    with pytest.raises(MapsError, match="cannot be read"):
        cg.contributions(maps["t"][0].assign_attrs(contributions="{"))


# --- several contrasts at once ----------------------------------------------------------------


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_fixed_effects__take_several_contrasts_at_once(
    fits: list[cg.Fit], weighted: bool, joint: bool, tmp_path: Path
) -> None:
    contrasts: dict[str, Any] = {"a": "a", "a - b": "a - b", "both": "a + b"}
    if joint:
        contrasts = {"one": ["a", "b"], "two": ["a - b", "drift"]}
    runs = [cg.contrast(fit, contrasts) for fit in fits[:3]]
    with lazily():
        together = cg.fixed_effects(runs, precision_weighted=weighted)
        of_fits = cg.fixed_effects(fits[:3], contrast=contrasts, precision_weighted=weighted)
    assert together["stat"].dims == ("contrast", "x", "y", "z")
    assert together["effect_size"].dims == runs[0]["effect_size"].dims
    together = together.compute()
    assert together.equals(of_fits.compute())
    for name, definition in contrasts.items():
        expected = cg.fixed_effects(
            [cg.contrast(fit, definition) for fit in fits[:3]], precision_weighted=weighted
        ).compute()
        assert distances(together.sel(contrast=name), expected) < REORDERED
        assert together["n_runs"].sel(contrast=name, drop=True).equals(expected["n_runs"])
        # One of them, selected, is what it would be alone.
        selected = cg.fixed_effects(
            [
                runs[0].sel(contrast=name),
                cg.contrast(fits[1], definition),
                runs[2].sel(contrast=name),
            ],
            precision_weighted=weighted,
        )
        assert distances(selected.compute(), expected) < REORDERED
        assert selected.attrs == expected.attrs
    first, second = list(contrasts)[:2]
    with pytest.raises(MapsError, match="contrasts differ"):
        cg.fixed_effects([runs[0].sel(contrast=first), runs[1].sel(contrast=second)])
    with pytest.raises(MapsError, match="contrasts differ"):
        cg.fixed_effects([runs[0], runs[1].isel(contrast=slice(None, None, -1))])
    cg.save(together.sel(contrast=second), tmp_path, prefix="p")
    assert cg.open_maps(tmp_path, prefix="p").attrs["contrast"] == (
        "a - b, drift" if joint else "a - b"
    )


# --- many runs --------------------------------------------------------------------------------


def test_fixed_effects__of_many_runs_cost_in_proportion(fits: list[cg.Fit]) -> None:
    one = cg.contrast(fits[0], "a")

    def cost(n: int) -> tuple[float, int]:
        runs = [one.assign_attrs(run=f"run {i}") for i in range(n)]
        start = time.process_time()
        found = cg.fixed_effects(runs)
        return time.process_time() - start, len(found.__dask_graph__())

    few, many = cost(20), cost(200)
    # One task per slab, whatever the number of runs, and the names of the maps for nine variables.
    assert many[1] == few[1]
    assert many[0] < 30 * few[0]
