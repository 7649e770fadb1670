from pathlib import Path
from typing import Any

import dask.array as da
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from helpers_lazy import lazily
from helpers_plotting import fit_runs, maps_of, slices, values_of

import chunkglm as cg
from chunkglm.errors import MapsError
from chunkglm.plotting import plot_runs, plot_stat_map


@pytest.fixture
def runs(tmp_path: Path) -> list[xr.Dataset]:
    return maps_of(tmp_path)


def plane(maps: xr.Dataset, k: int, name: str = "z_score") -> Any:
    return maps[name].isel(z=k).to_numpy()


def height_of(maps: xr.Dataset, k: int) -> float:
    return float(np.reshape(maps.attrs["affine"], (4, 4))[2] @ (0, 0, k, 1))


def test_plot_stat_map__shows_the_voxels_above_the_threshold(runs: list[xr.Dataset]) -> None:
    maps = runs[0]
    for threshold in (None, 1.5):
        display = plot_stat_map(
            maps, display_mode="z", cut_coords=[height_of(maps, 3)], threshold=threshold
        )
        expected = plane(maps, 3)
        expected = np.sort(expected[np.abs(expected) >= (threshold or 3.0)])
        assert expected.size
        (image,) = slices(display).values()
        np.testing.assert_allclose(values_of(image), expected, rtol=1e-6)
        plt.close("all")


def test_plot_stat_map__takes_a_variable_a_map_an_image_and_a_path(
    runs: list[xr.Dataset], tmp_path: Path
) -> None:
    maps = runs[0]
    one = {"display_mode": "z", "cut_coords": [height_of(maps, 3)], "threshold": 1e-6}
    expected = plane(maps, 3, "effect_size")
    expected = np.sort(expected[np.isfinite(expected)])
    image = maps.glm.to_nifti("effect_size")
    nib.save(image, tmp_path / "effect.nii.gz")
    alone = maps["effect_size"].assign_attrs(affine=maps.attrs["affine"])
    for display in (
        plot_stat_map(maps, "effect_size", **one),
        plot_stat_map(alone, **one),
        plot_stat_map(image, bg_img=image, **one),
        plot_stat_map(tmp_path / "effect.nii.gz", bg_img=image, **one),
    ):
        (axes,) = display.axes.values()
        drawn = axes.ax.images[-1]  # above its background
        np.testing.assert_allclose(values_of(drawn), expected, rtol=1e-6)


def test_plot_stat_map__computes_only_the_map_that_is_drawn(runs: list[xr.Dataset]) -> None:
    maps = runs[0].compute()
    untouchable = da.from_array(np.zeros(maps["stat"].shape)).map_blocks(
        lambda _: pytest.fail("stat was computed"), meta=np.empty((0, 0, 0))
    )
    plot_stat_map(maps.assign(stat=(("x", "y", "z"), untouchable)))


def test_plot_stat_map__draws_on_an_image_or_within_the_masks_border(
    runs: list[xr.Dataset], tmp_path: Path
) -> None:
    cut = {"display_mode": "z", "cut_coords": [height_of(runs[0], 3)]}
    (plain,) = plot_stat_map(runs[0], **cut).axes.values()
    assert len(plain.ax.images) == 1
    assert len(plain.ax.collections) == 1  # the border
    run = cg.open_run(tmp_path / "run-1_bold.nii.gz")
    (on_mean,) = plot_stat_map(runs[0], bg_img=run.mean("time"), **cut).axes.values()
    assert not on_mean.ax.collections
    expected = run.isel(z=3).mean("time").to_numpy()
    np.testing.assert_allclose(
        values_of(on_mean.ax.images[0]), np.sort(expected.ravel()), rtol=1e-5
    )
    with pytest.raises(MapsError, match=r'this is a run; give its mean, run.mean\("time"\)'):
        plot_stat_map(runs[0], bg_img=run)


def test_plot_stat_map__thresholded_maps_are_drawn_as_they_are(runs: list[xr.Dataset]) -> None:
    kept = cg.threshold(runs[0], height_control=None, threshold=1.0)
    one = {"display_mode": "z", "cut_coords": [height_of(runs[0], 3)]}
    (image,) = slices(kept.glm.plot(**one)).values()
    expected = plane(kept, 3, "thresholded")
    expected = np.sort(expected[np.isfinite(expected) & (expected != 0)])
    assert (np.abs(expected) < 3).any()
    np.testing.assert_allclose(values_of(image), expected, rtol=1e-6)


def test_plot_stat_map__a_map_with_nothing_above_is_a_result(
    runs: list[xr.Dataset], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    quiet = runs[0].compute()
    quiet["z_score"] = quiet["z_score"] * 1e-3
    assert plot_stat_map(quiet, output_file=tmp_path / "quiet.png") is None
    assert (tmp_path / "quiet.png").stat().st_size > 1000
    assert plt.get_fignums() == []
    assert not [w for w in recwarn if "empty mask" in str(w.message)]


def test_plot_stat_map__refuses_what_it_cannot_draw(tmp_path: Path) -> None:
    fit = fit_runs(tmp_path, 1)[0]
    several = cg.contrast(fit, {"a": "a", "both": "a + b"})
    with lazily():
        with pytest.raises(MapsError, match=r'take one, such as maps.sel\(contrast="..."\)'):
            plot_stat_map(several)
        with pytest.raises(MapsError, match="there is no 'zz' among the maps: effect_size"):
            plot_stat_map(several.sel(contrast="a"), "zz")
        with pytest.raises(MapsError, match=r"isel\(row=0\)"):
            plot_stat_map(cg.contrast(fit, ["a", "b"]), "effect_size")
        with pytest.raises(MapsError, match=r'attrs\["affine"\] must be'):
            plot_stat_map(several["z_score"].sel(contrast="a"))
    empty = several.sel(contrast="a").compute()
    with pytest.raises(MapsError, match="z_score: no voxel of the map is finite"):
        plot_stat_map(empty.assign(z_score=empty["z_score"] * np.nan))
    display = plot_stat_map(several.sel(contrast="both"))
    assert "a + b: z" in [text.get_text() for text in all_texts(display)]


def all_texts(display: Any) -> list[Any]:
    figure = display.frame_axes.figure
    return [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]


# --- runs beside their fixed effects ----------------------------------------------------------


def test_plot_runs__one_scale_the_same_slices_and_each_map_in_its_row(
    runs: list[xr.Dataset],
) -> None:
    fixed = cg.fixed_effects(runs)
    drawn = plot_runs(runs, fixed, threshold=0.5, cut_coords=[height_of(fixed, k) for k in (2, 4)])
    assert list(drawn) == ["run-1_bold", "run-2_bold", "fixed effects"]
    largest = max(float(np.abs(m["z_score"]).max()) for m in (*runs, fixed))
    for display, maps in zip(drawn.values(), (*runs, fixed), strict=True):
        assert list(slices(display)) == [height_of(fixed, k) for k in (2, 4)]
        for image, k in zip(slices(display).values(), (2, 4), strict=True):
            assert image.get_clim() == pytest.approx((-largest, largest))
            expected = plane(maps, k)
            expected = np.sort(expected[np.abs(expected) >= 0.5])
            np.testing.assert_allclose(values_of(image), expected, rtol=1e-6)
    names = {image.cmap.name for d in drawn.values() for image in slices(d).values()}
    assert len(names) == 1


def test_plot_runs__combines_and_computes_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from helpers_lazy import counting

    import chunkglm.lazy.moments

    reads = counting(monkeypatch, chunkglm.lazy.moments, "moments_in_one_pass")
    drawn = plot_runs(maps_of(tmp_path), labels=["first", "second"], vmax=12.0, cut_coords=3)
    assert len(reads) == 2  # each run once
    assert list(drawn) == ["first", "second", "fixed effects"]
    assert all(
        image.get_clim() == (-12.0, 12.0) for d in drawn.values() for image in slices(d).values()
    )


def test_plot_runs__writes_a_file_and_leaves_no_figure(
    runs: list[xr.Dataset], tmp_path: Path
) -> None:
    assert plot_runs(runs, cut_coords=2, output_file=tmp_path / "runs.png") is None
    assert (tmp_path / "runs.png").stat().st_size > 1000
    assert plt.get_fignums() == []


def test_plot_runs__names_files_of_one_name_by_their_folders(runs: list[xr.Dataset]) -> None:
    named = [
        maps.assign_attrs(run=f"/data/sub-01/ses-{i}/bold.nii.gz") for i, maps in enumerate(runs)
    ]
    assert list(plot_runs(named, cut_coords=2))[:2] == [
        "sub-01/ses-0/bold.nii.gz", "sub-01/ses-1/bold.nii.gz",
    ]  # fmt: skip
    with pytest.raises(MapsError, match="labels must be 2 different names"):
        plot_runs(runs, labels=["a", "a"])
