"""Thresholds beside nilearn's on the same map and mask, over any chunks, and lazily."""

import json
import warnings
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers_lazy import AFFINE, lazily, make_data, make_design, make_mask, one_line, write_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nilearn.glm import fdr_threshold, threshold_stats_img
from nilearn.reporting import get_clusters_table
from scipy.ndimage import gaussian_filter
from scipy.stats import false_discovery_control, norm

import chunkglm as cg
from chunkglm.errors import MapsError, MaskError

SHAPE = (9, 8, 11)
slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=40)


def field(seed: int = 0, *, scale: float = 2.0, ties: bool = False, dtype: Any = float) -> Any:
    """A smooth random map with a few strong voxels of either sign."""
    rng = np.random.default_rng(seed)
    z = gaussian_filter(rng.normal(size=SHAPE), 0.8)
    z *= scale / z.std()
    return (np.round(z * 2) / 2 if ties else z).astype(dtype)


def ball(seed: int = 1) -> Any:
    mask = np.random.default_rng(seed).random(SHAPE) < 0.9
    mask[0] = mask[:, -1] = False
    return mask


def as_map(z: Any, mask: Any = None, chunks: Any = None) -> xr.DataArray:
    values = z if mask is None else np.where(mask, z, np.nan).astype(z.dtype)
    data = da.from_array(values, chunks=chunks) if chunks is not None else values
    return xr.DataArray(data, dims=("x", "y", "z"), attrs={"affine": AFFINE.tolist()}, name="z")


def of_nilearn(z: Any, mask: Any, **choices: Any) -> tuple[Any, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image, height = threshold_stats_img(
            nib.Nifti1Image(z, AFFINE), nib.Nifti1Image(mask.astype(np.uint8), AFFINE), **choices
        )
    return image.get_fdata(), float(height)


def check_against_nilearn(z: Any, mask: Any, found: xr.Dataset, choices: dict[str, Any]) -> Any:
    """Equal to the voxel: what survives, its value, the height, and the number of tests."""
    expected, height = of_nilearn(z, mask, **choices)
    found = found.compute()
    values = found["thresholded"].to_numpy()
    np.testing.assert_array_equal(np.isnan(values), ~mask)
    np.testing.assert_array_equal(np.nan_to_num(values), expected)
    # In float32 nilearn's step of 1e-12 below the last z is lost.
    off = 0.0 if z.dtype == np.float64 else 1.1e-12
    np.testing.assert_allclose(float(found["threshold"]), height, rtol=0, atol=off)
    assert int(found["n_tests"]) == mask.sum()
    np.testing.assert_array_equal(found["cluster"].to_numpy() > 0, expected != 0)
    return expected


CHOICES = [
    {"height_control": control, "alpha": alpha, "two_sided": two_sided, "cluster_threshold": size}
    for control, alpha in (("fpr", 0.05), ("fpr", 0.001), ("fdr", 0.05), ("bonferroni", 0.05))
    for two_sided in (True, False)
    for size in (0, 1, 4, 20)
] + [
    {"height_control": None, "threshold": height, "two_sided": two_sided, "cluster_threshold": 3}
    for height, two_sided in ((2.0, True), (2.0, False), (-2.0, False), (0.0, True), (0.0, False))
]


@pytest.mark.parametrize("choices", CHOICES, ids=lambda c: "-".join(map(str, c.values())))
@pytest.mark.parametrize("kind", ["smooth", "ties", "float32"])
def test_threshold__is_nilearns_to_the_voxel(choices: dict[str, Any], kind: str) -> None:
    dtype = np.float32 if kind == "float32" else np.float64
    z, mask = field(ties=kind == "ties", dtype=dtype), ball()
    found = cg.threshold(as_map(z, mask, chunks=(4, 3, 2)), **choices)
    survivors = check_against_nilearn(z, mask, found, choices)
    if choices["cluster_threshold"] < 20 and choices["height_control"] != "bonferroni":
        assert np.count_nonzero(survivors)
    assert found["thresholded"].dtype == dtype


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(CHOICES),
    st.booleans(),
    st.floats(0.5, 4.0),
    st.tuples(*(st.integers(1, n) for n in SHAPE)),
)
@slow
def test_threshold__is_nilearns_over_random_fields_and_chunks(
    seed: int, choices: dict[str, Any], ties: bool, scale: float, chunks: tuple[int, int, int]
) -> None:
    z, mask = field(seed, scale=scale, ties=ties), ball(seed)
    found = cg.threshold(as_map(z, chunks=chunks), mask=mask, **choices)
    check_against_nilearn(z, mask, found, choices)


@given(st.integers(0, 2**32 - 1), st.tuples(*(st.integers(1, n) for n in SHAPE)))
@slow
def test_threshold__same_bytes_whatever_the_chunks(seed: int, chunks: tuple[int, ...]) -> None:
    z, mask = field(seed, ties=True), ball(seed)
    choices: dict[str, Any] = {"alpha": 0.05, "height_control": "fdr", "cluster_threshold": 2}
    found = cg.threshold(as_map(z, mask, chunks=chunks), **choices).compute()
    expected = cg.threshold(as_map(z, mask), **choices).compute()
    xr.testing.assert_identical(found, expected)


def test_threshold__nothing_survives() -> None:
    z, mask = np.clip(field(), -1, 1), ball()
    for control in ("fpr", "fdr", "bonferroni"):
        choices: dict[str, Any] = {"height_control": control, "alpha": 0.01}
        found = cg.threshold(as_map(z, mask), **choices)
        assert not check_against_nilearn(z, mask, found, choices).any()
    assert np.isinf(cg.threshold(as_map(z, mask), height_control="fdr")["threshold"])


def test_threshold__a_map_without_tests_gives_nothing() -> None:
    found = cg.threshold(as_map(np.full(SHAPE, np.nan)), height_control="bonferroni").compute()
    assert found["thresholded"].isnull().all()
    assert int(found["n_tests"]) == 0
    assert len(cg.clusters(found)) == 0


def test_threshold__voxels_without_a_statistic_are_no_tests() -> None:
    """nilearn counts a NaN of the mask as a test of z = 0, which costs power."""
    z, mask = field(), ball()
    z[3:5] = np.nan
    found = cg.threshold(as_map(z), mask=mask, height_control="bonferroni", alpha=0.05)
    n = np.count_nonzero(mask & np.isfinite(z))
    assert int(found["n_tests"]) == n
    assert float(found["threshold"]) == norm.isf(0.025 / n)
    _, height = of_nilearn(z, mask, height_control="bonferroni", alpha=0.05)
    assert height == norm.isf(0.025 / mask.sum())


def test_threshold__clusters_of_the_whole_map_across_chunks() -> None:
    z = np.zeros(SHAPE)
    z[2, 2, :] = 5.0  # a line through every slab
    z[4, 4, 3], z[5, 4, 4] = 5.0, 5.0  # meet at an edge only: two clusters
    z[7, 6, 5:7] = -5.0
    for chunks in ((9, 8, 1), (1, 1, 1), (9, 8, 11)):
        found = cg.threshold(as_map(z, chunks=chunks), cluster_threshold=2).compute()
        labels = found["cluster"].to_numpy()
        assert (labels[2, 2] == 1).all()
        assert (labels[7, 6, 5:7] == 2).all()
        assert np.count_nonzero(labels) == SHAPE[2] + 2


# What goes through a whole analysis ----------------------------------------------------------


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    folder = tmp_path_factory.mktemp("runs")
    runs = [write_run(folder / f"{i}.nii.gz", make_data(seed=i)) for i in range(2)]
    fits = [cg.fit(run, make_design(), mask=make_mask()) for run in runs]
    return cg.fixed_effects([cg.contrast(f, "a - b") for f in fits])


@pytest.fixture(scope="module")
def f_maps(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    run = write_run(tmp_path_factory.mktemp("run") / "run.nii.gz")
    return cg.contrast(cg.fit(run, make_design(), mask=make_mask()), ["a", "b"])


def test_threshold__of_fixed_effects_is_nilearns(maps: xr.Dataset) -> None:
    z, mask = maps["z_score"].to_numpy(), make_mask()
    z = np.nan_to_num(z)
    for choices in CHOICES:
        check_against_nilearn(z, mask, cg.threshold(maps, **choices), choices)


def test_threshold__and_what_it_gives_are_lazy(maps: xr.Dataset) -> None:
    with lazily():
        for control in ("fpr", "fdr", "bonferroni"):
            found = cg.threshold(maps, height_control=control, cluster_threshold=3)
            assert all(isinstance(v.data, da.Array) for v in found.data_vars.values())
        assert isinstance(cg.fdr(maps).data, da.Array)


def test_threshold__computed_with_its_maps_runs_nothing_twice(
    maps: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chunkglm.lazy import multiple

    calls = []
    original = multiple.label_slab
    monkeypatch.setattr(multiple, "label_slab", lambda v: calls.append(1) or original(v))
    found = cg.threshold(maps, alpha=0.05)
    n_slabs = found["cluster"].data.numblocks[2]
    dask.compute(maps, found, scheduler="synchronous")
    assert len(calls) == n_slabs


def test_threshold__keeps_the_grid_and_says_what_was_done(maps: xr.Dataset) -> None:
    found = cg.threshold(maps, alpha=0.01, height_control="fdr", cluster_threshold=3)
    assert found.attrs["contrast"] == maps.attrs["contrast"]
    assert found.attrs["affine"] == maps.attrs["affine"]
    told = {n: found.attrs[n] for n in ("alpha", "height_control", "cluster_threshold")}
    assert told == {"alpha": 0.01, "height_control": "fdr", "cluster_threshold": 3.0}
    assert found.attrs["two_sided"] is True


def test_threshold__takes_a_variable_by_itself(maps: xr.Dataset) -> None:
    one = cg.threshold(maps["z_score"], alpha=0.05)
    both = cg.threshold(maps, alpha=0.05)
    xr.testing.assert_equal(one.compute(), both.compute())
    with pytest.raises(MapsError, match="affine"):
        cg.clusters(one)


def test_threshold__of_f_maps_has_one_tail(f_maps: xr.Dataset) -> None:
    found = cg.threshold(f_maps, alpha=0.01)
    assert float(found["threshold"]) == norm.isf(0.01)
    assert found.attrs["two_sided"] is False
    with pytest.raises(MapsError) as caught:
        cg.threshold(f_maps, two_sided=True)
    one_line(caught.value, "F statistics have one tail")


def test_threshold__any_order_of_dims(maps: xr.Dataset) -> None:
    found = cg.threshold(maps.transpose("z", "x", "y"), alpha=0.05)
    xr.testing.assert_identical(found.compute(), cg.threshold(maps, alpha=0.05).compute())


# False discovery rates -----------------------------------------------------------------------


@given(
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.booleans(),
    st.tuples(*(st.integers(1, n) for n in SHAPE)),
)
@slow
def test_fdr__is_scipys_over_any_chunks(
    seed: int, two_sided: bool, ties: bool, chunks: tuple[int, int, int]
) -> None:
    z, mask = field(seed, ties=ties), ball(seed)
    p = norm.sf(z[mask])
    if two_sided:
        p = 2 * norm.sf(np.abs(z[mask]))
    found = cg.fdr(as_map(z, mask, chunks=chunks), two_sided=two_sided).to_numpy()
    assert np.isnan(found[~mask]).all()
    # Worst seen: 2 units in the last place, from the order of a product and a quotient.
    np.testing.assert_allclose(found[mask], false_discovery_control(p), rtol=1e-15, atol=0)


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
@slow
def test_fdr__q_below_alpha_is_what_threshold_keeps(seed: int, two_sided: bool, ties: bool) -> None:
    maps = as_map(field(seed, ties=ties), ball(seed), chunks=3)
    q = cg.fdr(maps, two_sided=two_sided).to_numpy()
    for alpha in (0.3, 0.05, 0.001):
        found = cg.threshold(maps, alpha=alpha, height_control="fdr", two_sided=two_sided)
        np.testing.assert_array_equal(q < alpha, found["cluster"].to_numpy() > 0)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.001, 0.05, 0.5]), st.booleans())
@slow
def test_fdr_height__is_nilearns_with_ties(seed: int, alpha: float, ties: bool) -> None:
    z = field(seed, ties=ties)
    found = cg.threshold(as_map(z), alpha=alpha, height_control="fdr", two_sided=False)
    assert float(found["threshold"]) == fdr_threshold(z.reshape(-1), alpha)


# Tables of clusters --------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(1, 11))
@slow
def test_clusters__are_nilearns_table(seed: int, two_sided: bool, chunk: int) -> None:
    z, mask = field(seed), ball(seed)
    found = cg.threshold(
        as_map(z, mask, chunks=(9, 8, chunk)), alpha=0.05, two_sided=two_sided, cluster_threshold=2
    )
    table = cg.clusters(found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = get_clusters_table(
            nib.Nifti1Image(np.where(mask, z, 0), AFFINE),
            float(found["threshold"]),
            cluster_threshold=2,
            two_sided=two_sided,
        )
    # Peaks within clusters have letters and no size.
    expected = expected[expected["Cluster Size (mm3)"] != ""]
    columns = ["X", "Y", "Z", "Peak Stat"]
    np.testing.assert_allclose(
        table[columns].to_numpy(), expected[columns].to_numpy(dtype=float), rtol=1e-12, atol=1e-12
    )
    # nilearn cuts the size to an integer.
    sizes = table["Cluster Size (mm3)"].to_numpy()
    np.testing.assert_array_equal(
        np.floor(sizes + 1e-9), expected["Cluster Size (mm3)"].astype(float)
    )
    labels = found["cluster"].to_numpy()
    np.testing.assert_array_equal(np.unique(labels[labels > 0]), table["Cluster ID"])
    np.testing.assert_array_equal(
        np.bincount(labels.reshape(-1))[1:], table["Cluster Size (voxels)"]
    )


def test_clusters__of_a_part_lie_where_they_did() -> None:
    z = np.zeros(SHAPE)
    z[5, 4, 3] = 9.0
    found = cg.threshold(as_map(z))
    whole = cg.clusters(found)
    part = cg.clusters(found.isel(x=slice(2, None), z=slice(1, 7)).compute())
    np.testing.assert_allclose(part[["X", "Y", "Z"]], whole[["X", "Y", "Z"]], atol=1e-12)
    np.testing.assert_allclose(whole[["X", "Y", "Z"]].to_numpy()[0], (AFFINE @ [5, 4, 3, 1])[:3])


# Files ---------------------------------------------------------------------------------------


def test_save__writes_the_map_its_clusters_and_their_table(
    maps: xr.Dataset, tmp_path: Path
) -> None:
    found = cg.threshold(maps, alpha=0.2).compute()
    written = [Path(p) for p in cg.save(found, tmp_path, prefix="sub-1")]
    assert [p.name for p in written] == [
        "sub-1_stat-z_desc-thresholded_statmap.nii.gz",
        "sub-1_desc-clusters_dseg.nii.gz",
        "sub-1_clusters.tsv",
    ]
    values, labels = (nib.load(p) for p in written[:2])
    np.testing.assert_array_equal(values.get_fdata(), found["thresholded"].fillna(0))
    np.testing.assert_array_equal(np.asarray(labels.dataobj), found["cluster"])
    assert labels.get_data_dtype() == np.int32
    np.testing.assert_allclose(values.affine, AFFINE)
    table = pd.read_csv(written[2], sep="\t")
    assert len(table) > 1
    pd.testing.assert_frame_equal(table, cg.clusters(found), check_dtype=False)
    for path in written:
        name = path.name.removesuffix(".nii.gz").removesuffix(".tsv") + ".json"
        told = json.loads((tmp_path / name).read_text())
        assert told["Threshold"] == float(found["threshold"]) == norm.isf(0.1)
        assert told["Tests"] == int(found["n_tests"])
        assert (told["HeightControl"], told["Alpha"], told["TwoSided"]) == ("fpr", 0.2, True)


def test_save__when_nothing_survives(tmp_path: Path) -> None:
    found = cg.threshold(as_map(np.zeros(SHAPE)), height_control="fdr")
    written = cg.save(found, tmp_path, prefix="none")
    assert not nib.load(written[0]).get_fdata().any()
    assert pd.read_csv(written[2], sep="\t").empty
    told = json.loads((tmp_path / "none_clusters.json").read_text())
    assert told["Threshold"] == "none survives"


# What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"alpha": 0}, ["alpha", "above 0", 0]),
        ({"alpha": 1.5}, ["alpha", "1.5"]),
        ({"alpha": 0.6, "two_sided": False}, ["alpha", "0.5", "0.6"]),
        ({"alpha": "0.05"}, ["alpha", "'0.05'"]),
        ({"alpha": np.nan}, ["alpha", "nan"]),
        ({"height_control": "fwe"}, ["height_control", "'fwe'", "bonferroni"]),
        ({"height_control": None}, ["height_control=None", "threshold"]),
        ({"threshold": 3.1}, ["threshold=3.1", "height_control=None"]),
        ({"height_control": None, "threshold": -2.0}, ["two_sided", -2]),
        ({"height_control": None, "threshold": np.inf}, ["threshold", "inf"]),
        ({"cluster_threshold": -1}, ["cluster_threshold", -1]),
    ],
)
def test_threshold__bad_choices_are_refused_by_name(choices: Any, words: list[Any]) -> None:
    with pytest.raises(MapsError) as caught:
        cg.threshold(as_map(field()), **choices)
    one_line(caught.value, *words)


def test_threshold__other_things_are_refused(maps: xr.Dataset, f_maps: xr.Dataset) -> None:
    for wrong, words in (
        (np.zeros(SHAPE), ["ndarray"]),
        (maps.drop_vars("z_score"), ["z_score", "missing"]),
        (f_maps["effect_size"], ["row", "isel(row=0)"]),
        (as_map(field()).isel(x=0), ["('y', 'z')"]),
        (as_map(field()) > 1, ["bool"]),
    ):
        with pytest.raises(MapsError) as caught:
            cg.threshold(wrong)
        one_line(caught.value, *words)
    with pytest.raises(MapsError) as caught:
        cg.clusters(maps)
    one_line(caught.value, "thresholded is missing")


def test_threshold__masks_of_another_grid_are_refused() -> None:
    z = as_map(field())
    with pytest.raises(MaskError, match="shape"):
        cg.threshold(z, mask=np.ones((2, 2, 2)))
    moved = nib.Nifti1Image(ball().astype(np.uint8), AFFINE + np.eye(4, k=3))
    with pytest.raises(MaskError, match="affine"):
        cg.threshold(z, mask=moved)
    z.attrs.clear()
    with pytest.raises(MapsError, match="affine"):
        cg.threshold(z, mask=moved)
