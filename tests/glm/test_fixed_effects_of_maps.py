"""Fixed effects: the formulas, parts that merge, and maps that do not belong together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from helpers_lazy import (
    AFFINE,
    SHAPE,
    distances,
    lazily,
    make_data,
    make_design,
    make_mask,
    one_line,
    write_run,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import chunkglm as cg
from chunkglm.errors import MapsError
from chunkglm.glm import combined

# The same sums in another order; worst seen 3e-15.
REORDERED = 1e-13

LENGTHS = (30, 34, 30, 41)
COVERAGE = ("n_runs", "dof", "voxel_status")


def names(maps: xr.Dataset) -> list[str]:
    """Runs that count."""
    table = cg.contributions(maps)
    return table["run"][table["contributed"]].tolist()


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[xr.Dataset]]:
    """t and F maps of four runs of unlike length, each with a mask of its own."""
    folder = tmp_path_factory.mktemp("runs")
    found: dict[str, list[xr.Dataset]] = {"t": [], "F": []}
    for i, n_scans in enumerate(LENGTHS):
        data = make_data((*SHAPE[:3], n_scans), seed=i)
        path = write_run(folder / f"run-{i}.nii", data)
        mask = make_mask()
        mask[i, 2, 2:4] = False
        fit = cg.fit(path, make_design(n_scans), mask=mask)
        found["t"].append(cg.contrast(fit, "a - b").compute())
        found["F"].append(cg.contrast(fit, ["a", "b"]).compute())
    return found


def test_fixed_effects__follow_the_formulas(maps: dict[str, list[xr.Dataset]]) -> None:
    e = np.stack([m["effect_size"] for m in maps["t"]])
    v = np.stack([m["effect_variance"] for m in maps["t"]])
    counts = np.isfinite(e)
    n = counts.sum(axis=0)
    dofs = np.array([length - 4 for length in LENGTHS])
    dof = np.einsum("i,ixyz->xyz", dofs, counts).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        plain = np.nansum(e, axis=0) / n, np.nansum(v, axis=0) / n**2
        weight = np.nansum(1 / v, axis=0)
        weighted = np.nansum(e / v, axis=0) / weight, 1 / weight
    for precise, (effect, variance) in ((False, plain), (True, weighted)):
        found = cg.fixed_effects(maps["t"], precision_weighted=precise).compute()
        ok = n > 0
        np.testing.assert_allclose(found["effect_size"].to_numpy()[ok], effect[ok], rtol=1e-12)
        np.testing.assert_allclose(
            found["effect_variance"].to_numpy()[ok], variance[ok], rtol=1e-12
        )
        t = effect[ok] / np.sqrt(variance[ok])
        np.testing.assert_allclose(found["stat"].to_numpy()[ok], t, rtol=1e-12)
        p = stats.t.sf(t, dof[ok])
        np.testing.assert_allclose(found["p_value"].to_numpy()[ok], p, rtol=1e-9)
        assert np.array_equal(found["n_runs"], n)
        assert np.array_equal(found["dof"].to_numpy()[ok], dof[ok])
        for name in ("effect_size", "effect_variance", "stat", "p_value", "z_score", "dof"):
            assert np.isnan(found[name].to_numpy()[~ok]).all(), name
        assert found.attrs["dof"] == dofs.sum()
        assert names(found) == [m.attrs["run"] for m in maps["t"]]
        assert bool(found.attrs["precision_weighted"]) is precise
    assert set(np.unique(n)) == {0, 3, 4}


def test_fixed_effects__joint_f_combines_covariances(maps: dict[str, list[xr.Dataset]]) -> None:
    found = cg.fixed_effects(maps["F"], precision_weighted=True).compute()
    at = (1, 1, 3)
    e = np.stack([m["effect_size"].to_numpy()[:, *at] for m in maps["F"]])
    v = np.stack([m["effect_variance"].to_numpy()[:, :, *at] for m in maps["F"]])
    precision = np.linalg.inv(v)
    covariance = np.linalg.inv(precision.sum(axis=0))
    effect = covariance @ np.einsum("iab,ib->a", precision, e)
    np.testing.assert_allclose(found["effect_size"].to_numpy()[:, *at], effect, rtol=1e-11)
    np.testing.assert_allclose(
        found["effect_variance"].to_numpy()[:, :, *at], covariance, rtol=1e-11
    )
    f = effect @ np.linalg.inv(covariance) @ effect / 2
    assert float(found["stat"][at]) == pytest.approx(f, rel=1e-11)
    assert float(found["p_value"][at]) == pytest.approx(stats.f.sf(f, 2, 119), rel=1e-9)


@pytest.mark.parametrize("kind", ["t", "F"])
@pytest.mark.parametrize("weighted", [False, True])
@given(order=st.permutations(range(4)), cut=st.integers(1, 3))
@settings(max_examples=10, deadline=None)
def test_fixed_effects__parts_merge_as_if_given_at_once(
    maps: dict[str, list[xr.Dataset]], kind: str, weighted: bool, order: list[int], cut: int
) -> None:
    runs = [maps[kind][i] for i in order]
    whole = cg.fixed_effects(runs, precision_weighted=weighted).compute()
    parts = [
        cg.fixed_effects(part, precision_weighted=weighted) for part in (runs[:cut], runs[cut:])
    ]
    merged = cg.fixed_effects(parts, precision_weighted=weighted).compute()
    assert distances(merged, whole) < REORDERED
    for name in COVERAGE:
        assert merged[name].equals(whole[name])
    assert merged.attrs == whole.attrs


@pytest.mark.parametrize("stat_type", ["t", "F"])
@pytest.mark.parametrize("weighted", [False, True])
def test_fixed_effects__of_maps_in_memory_are_made_at_once(
    maps: dict[str, list[xr.Dataset]], stat_type: str, weighted: bool
) -> None:
    held = maps[stat_type]
    before = [one.copy(deep=True) for one in held]
    found = cg.fixed_effects(held, precision_weighted=weighted)
    rest = cg.drop_runs(found, held[:2])
    assert found.chunks == rest.chunks == {}
    assert all(one.identical(two) for one, two in zip(held, before, strict=True))
    lazy = cg.fixed_effects([one.chunk({"z": 1}) for one in held], precision_weighted=weighted)
    assert set(lazy.chunks) >= {"x", "y", "z"}
    assert distances(lazy, found) <= REORDERED
    others = cg.drop_runs(lazy, held[:2])  # one of them is lazy, and so is what is made of it
    assert set(others.chunks) >= {"x", "y", "z"}
    assert distances(others, rest) <= REORDERED


@pytest.mark.parametrize("stat_type", ["t", "F"])
def test_fixed_effects__are_the_same_however_many_voxels_at_once(
    maps: dict[str, list[xr.Dataset]], stat_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cg.fixed_effects(maps[stat_type])
    # Some pieces have no voxel of any run, some no cell without one, and most have both.
    for cells in (1, 7, 4 * SHAPE[0]):
        monkeypatch.setattr(combined, "_CELLS_AT_ONCE", cells)
        found = cg.fixed_effects(maps[stat_type])
        assert distances(whole, found) <= REORDERED


def test_fixed_effects__a_lazy_map_that_is_kept_keeps_no_other(
    maps: dict[str, list[xr.Dataset]],
) -> None:
    lazy = cg.fixed_effects([one.chunk() for one in maps["t"]])
    (block,) = lazy["z_score"].data.persist(scheduler="synchronous").dask.values()
    kept = block
    while isinstance(kept.base, np.ndarray):
        kept = kept.base
    assert kept.nbytes == block.nbytes == lazy["z_score"].nbytes


def test_distances__sees_runs_weighted_wrongly(maps: dict[str, list[xr.Dataset]]) -> None:
    parts = [cg.fixed_effects(part) for part in (maps["t"][:1], maps["t"][1:])]
    forgotten = [part.drop_vars("n_runs") for part in parts]
    found = cg.fixed_effects(forgotten).compute()
    assert distances(found, cg.fixed_effects(maps["t"]).compute()) > 0.01


@pytest.mark.parametrize("kind", ["t", "F"])
@pytest.mark.parametrize("weighted", [False, True])
def test_fixed_effects__a_run_dimension_is_a_list(
    maps: dict[str, list[xr.Dataset]], kind: str, weighted: bool
) -> None:
    alike = [maps[kind][0], maps[kind][2]]
    expected = cg.fixed_effects(alike, precision_weighted=weighted).compute()
    with lazily():
        found = cg.fixed_effects(xr.concat(alike, dim="run"), precision_weighted=weighted)
    found = found.compute()
    assert distances(found, expected) == 0.0
    assert found["dof"].equals(expected["dof"])
    # Runs that differ in their degrees of freedom, one for each.
    together = xr.concat(maps[kind], dim="run").assign_attrs(dof=[n - 4 for n in LENGTHS])
    found = cg.fixed_effects(together, precision_weighted=weighted).compute()
    expected = cg.fixed_effects(maps[kind], precision_weighted=weighted).compute()
    assert distances(found, expected) == 0.0
    assert found["dof"].equals(expected["dof"])
    with pytest.raises(MapsError) as caught:
        cg.fixed_effects(together.assign_attrs(dof=[26.0, 30.0]))
    one_line(caught.value, "4 runs", "2 degrees of freedom")


def test_fixed_effects__concatenated_runs_of_unlike_length_keep_their_dof(
    maps: dict[str, list[xr.Dataset]],
) -> None:
    found = cg.fixed_effects(xr.concat(maps["t"], dim="run")).compute()
    assert found["dof"].equals(cg.fixed_effects(maps["t"]).compute()["dof"])


def test_fixed_effects__of_pooled_maps_in_a_run_dimension(
    maps: dict[str, list[xr.Dataset]],
) -> None:
    parts = [cg.fixed_effects(maps["t"][:1]), cg.fixed_effects(maps["t"][1:])]
    found = cg.fixed_effects(xr.concat(parts, dim="run")).compute()
    expected = cg.fixed_effects(maps["t"]).compute()
    assert distances(found, expected) < REORDERED
    for name in ("n_runs", "dof"):
        assert found[name].equals(expected[name])


def test_fixed_effects__of_one_run_is_the_run(maps: dict[str, list[xr.Dataset]]) -> None:
    found = cg.fixed_effects(maps["t"][:1]).compute()
    assert distances(found, maps["t"][0]) < REORDERED
    alone = cg.fixed_effects(maps["t"][0]).compute()
    assert alone.drop_attrs().equals(found.drop_attrs())
    assert found["voxel_status"].equals(maps["t"][0]["voxel_status"])


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("weighted", [False, True])
def test_fixed_effects__bad_variances_get_no_weight(
    maps: dict[str, list[xr.Dataset]], value: float, weighted: bool
) -> None:
    at = (1, 1, 3)
    bad = maps["t"][0].copy(deep=True)
    bad["effect_variance"][at] = value
    found = cg.fixed_effects([bad, *maps["t"][1:]], precision_weighted=weighted).compute()
    expected = cg.fixed_effects(maps["t"][1:], precision_weighted=weighted).compute()
    for name in ("effect_size", "effect_variance", "stat", "n_runs", "dof"):
        assert float(found[name][at]) == pytest.approx(float(expected[name][at]), rel=1e-12)
    assert float(found["n_runs"][at]) == 3
    nothing = cg.fixed_effects([bad], precision_weighted=weighted).compute()
    assert float(nothing["n_runs"][at]) == 0
    assert np.isnan(nothing["stat"][at])
    assert int(nothing["voxel_status"][at]) == 8
    assert int(found["voxel_status"][at]) == 0
    outside = ~np.isfinite(np.stack([m["effect_size"] for m in maps["t"]])).any(axis=0)
    assert (found["voxel_status"].to_numpy()[outside] == 1).all()


# --- what does not belong together ------------------------------------------------------------

OTHER: dict[str, tuple[Callable[[Any], Any], str]] = {
    "statistic": (lambda m: m["F"][1], "kinds of statistic differ, 't' and 'F'"),
    "contrast": (
        lambda m: m["t"][1].assign_attrs(
            contrast="b - a", contrast_weights='[{"a": -1.0, "b": 1.0}]'
        ),
        "'a - b' and 'b - a'",
    ),
    "scaling": (lambda m: m["t"][1].assign_attrs(scaling=None), "scalings differ"),
    "shape": (lambda m: m["t"][1].isel(x=slice(3)), "shapes differ, (5, 4, 6) and (3, 4, 6)"),
    "affine": (
        lambda m: m["t"][1].assign_attrs(affine=(AFFINE + 0.01).tolist()), "affines differ by up"
    ),
    "no affine": (lambda m: m["t"][1].drop_attrs().assign_attrs(stat_type="t", dof=3), ""),
    "no dof": (lambda m: drop(m["t"][1], "dof"), "attrs['dof'] missing"),
    "no stat_type": (lambda m: drop(m["t"][1], "stat_type"), "attrs['stat_type'] missing"),
    "other stat_type": (lambda m: m["t"][1].assign_attrs(stat_type="z"), "'z'"),
    "no effect": (lambda m: m["t"][1].drop_vars("effect_size"), "effect_size missing"),
    "one axis less": (lambda m: m["t"][1].isel(z=0), "('x', 'y')"),
    "array": (lambda m: m["t"][1]["stat"], "DataArray"),
    "path": (lambda m: "maps.nii", "str"),
}  # fmt: skip


def drop(maps: xr.Dataset, name: str) -> xr.Dataset:
    return maps.drop_attrs(deep=False).assign_attrs(
        {k: v for k, v in maps.attrs.items() if k != name}
    )


@pytest.mark.parametrize("kind", list(OTHER))
def test_fixed_effects__refuse_maps_that_do_not_belong_together(
    maps: dict[str, list[xr.Dataset]], kind: str
) -> None:
    other, cause = OTHER[kind]
    with pytest.raises(MapsError) as caught:
        cg.fixed_effects([maps["t"][0], other(maps)])
    one_line(caught.value, cause)


@pytest.mark.parametrize("dof", [0, -3, np.nan, np.inf, "many", None, [1, 2]])
def test_fixed_effects__refuse_bad_degrees_of_freedom(
    maps: dict[str, list[xr.Dataset]], dof: Any
) -> None:
    with pytest.raises(MapsError) as caught:
        cg.fixed_effects([maps["t"][0], maps["t"][1].assign_attrs(dof=dof)])
    one_line(caught.value, "maps 1", repr(dof))


@pytest.mark.parametrize("maps", [[], (), None, 5, {}, "maps"])
def test_fixed_effects__refuse_what_is_no_list_of_maps(maps: Any) -> None:
    with pytest.raises(MapsError) as caught:
        cg.fixed_effects(maps)
    one_line(caught.value)


def test_fixed_effects__name_both_runs(maps: dict[str, list[xr.Dataset]]) -> None:
    other = maps["t"][1].assign_attrs(contrast="b", contrast_weights='[{"b": 1.0}]')
    with pytest.raises(MapsError) as caught:
        cg.fixed_effects([maps["t"][0], other])
    one_line(caught.value, Path(maps["t"][0].attrs["run"]), Path(other.attrs["run"]))


def test_fixed_effects__different_rows_are_refused(maps: dict[str, list[xr.Dataset]]) -> None:
    fewer = maps["F"][1].isel(row=[0], row_=[0]).assign_attrs(rank=1)
    with pytest.raises(MapsError) as caught:
        cg.fixed_effects([maps["F"][0], fewer])
    one_line(caught.value, "rows of the contrast differ, 2 and 1")


def test_fixed_effects__compare_contrasts_by_column_and_not_by_text(tmp_path: Path) -> None:
    # The same vector over columns in another order is another contrast; the same contrast may be
    # written in several ways.
    table = make_design()
    names = list(table.columns)
    turned = table[[names[1], names[0], *names[2:]]]
    first, second = (write_run(tmp_path / f"{n}.nii") for n in "12")
    fits = [cg.fit(first, table), cg.fit(second, turned)]
    vector = [1, -1] + [0] * (len(names) - 2)
    with pytest.raises(MapsError, match="contrasts differ"):
        cg.fixed_effects([cg.contrast(fit, vector) for fit in fits])
    texts = (f"{names[0]} - {names[1]}", f"-{names[1]} + {names[0]}")
    pooled = cg.fixed_effects([cg.contrast(f, t) for f, t in zip(fits, texts, strict=True)])
    assert float(pooled["n_runs"].max()) == 2


def test_fixed_effects__parts_weighted_otherwise_are_refused(
    maps: dict[str, list[xr.Dataset]],
) -> None:
    part = cg.fixed_effects(maps["t"])
    with pytest.raises(MapsError, match="precision_weighted=False"):
        cg.fixed_effects([part, maps["t"][0]], precision_weighted=True)


def test_fixed_effects__a_run_given_twice_is_named(maps: dict[str, list[xr.Dataset]]) -> None:
    one = maps["t"][0]
    with pytest.warns(UserWarning, match="given more than once"):
        cg.fixed_effects([one, one])
