"""Runs of which a part was taken: where it lies and when it was scanned stays known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers_lazy import AFFINE, SHAPE, make_data, make_design, make_mask, write_run

import chunkglm as cg
from chunkglm.errors import DesignError, MapsError, MaskError

T_R = 2.0
EVENTS = pd.DataFrame({"onset": [4.0, 20.0, 36.0], "duration": 6.0, "trial_type": "a"})
# Designs and sums of the same numbers in another order; worst seen 2e-15.
SAME = 1e-12


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run.nii", t_r=T_R)


@pytest.mark.parametrize("kept", [slice(5, None), slice(None, 20), slice(0, None, 2)])
def test_fit__events_stay_where_they_were_when_volumes_are_dropped(run: Path, kept: slice) -> None:
    whole = cg.fit(run, EVENTS).design.values
    part = cg.fit(cg.open_run(run)[..., kept], EVENTS).design
    task = part.names.index("a")
    np.testing.assert_allclose(part.values[:, task], whole[kept][:, task], atol=SAME)


def test_fit__events_of_volumes_out_of_order_are_refused(run: Path) -> None:
    turned = cg.open_run(run)[..., ::-1]
    with pytest.raises(DesignError, match="pass a design matrix"):
        cg.fit(turned, EVENTS)
    assert cg.fit(turned, make_design()).dof == SHAPE[3] - 4


@pytest.mark.parametrize(
    ("part", "origin", "signs"),
    [
        ((slice(2, None), slice(None), slice(1, 4)), (2, 0, 1), (1, 1, 1)),
        ((slice(None, None, -1), slice(None), slice(None)), (4, 0, 0), (-1, 1, 1)),
        ((slice(None), slice(None, None, 2), slice(None)), (0, 0, 0), (1, 2, 1)),
        ((slice(None), slice(None), [3]), (0, 0, 3), (1, 1, 1)),
    ],
)
def test_fit__maps_of_a_part_lie_where_the_part_does(
    run: Path, tmp_path: Path, part: tuple[slice, ...], origin: tuple[int, ...],
    signs: tuple[int, ...],
) -> None:  # fmt: skip
    whole = cg.contrast(cg.fit(run, make_design()), "a")["stat"].compute().to_numpy()
    maps = cg.contrast(cg.fit(cg.open_run(run)[part], make_design()), "a")
    np.testing.assert_allclose(maps["stat"].compute().to_numpy(), whole[part], rtol=1e-9)
    affine = np.reshape(maps.attrs["affine"], (4, 4))
    np.testing.assert_allclose(affine[:3, 3], (AFFINE @ [*origin, 1])[:3])
    np.testing.assert_allclose(affine[:3, :3], AFFINE[:3, :3] * signs)


def test_save__maps_of_which_a_part_was_taken_lie_where_it_does(run: Path, tmp_path: Path) -> None:
    import nibabel as nib

    maps = cg.contrast(cg.fit(run, make_design()), "a").isel(x=slice(2, None))
    image = nib.load(cg.save(maps, tmp_path, prefix="part")[2])
    np.testing.assert_allclose(image.affine[:3, 3], (AFFINE @ [2, 0, 0, 1])[:3], atol=1e-5)


def test_fixed_effects__different_parts_of_one_shape_are_refused(run: Path) -> None:
    opened = cg.open_run(run)
    maps = [cg.contrast(cg.fit(p, make_design()), "a") for p in (opened[1:], opened[:-1])]
    with pytest.raises(MapsError, match="affines differ"):
        cg.fixed_effects(maps)


def test_fit__a_mask_of_the_whole_does_not_fit_a_flipped_run(run: Path) -> None:
    mask = cg.open_run(run)[..., 0].drop_vars("time").copy(data=make_mask())
    turned = cg.open_run(run)[::-1]
    with pytest.raises(MaskError, match="affine"):
        cg.fit(turned, make_design(), mask=mask)
    assert cg.fit(turned, make_design(), mask=mask[::-1]).dof == SHAPE[3] - 4


def test_fit__uneven_voxels_are_refused(run: Path) -> None:
    with pytest.raises(MapsError, match="evenly spaced"):
        cg.fit(cg.open_run(run).isel(x=[0, 1, 3]), make_design())


def test_contrast__a_voxel_that_the_design_explains_has_no_statistic(tmp_path: Path) -> None:
    # A spike at one volume, and a column for that volume: nothing is left to estimate noise from.
    data = make_data()
    data[2, 1, 3] = 100
    data[2, 1, 3, 7] = 180
    design = make_design().assign(spike=(np.arange(SHAPE[3]) == 7).astype(float))
    for noise in ("ar1", "ols"):
        fit = cg.fit(write_run(tmp_path / f"{noise}.nii", data), design, noise=noise)
        maps = cg.contrast(fit, "a").compute()
        assert maps["voxel_status"][2, 1, 3] == 4
        assert np.isnan(maps["stat"][2, 1, 3])
        assert int(np.isnan(maps["stat"]).sum()) == 1
        with pytest.warns(UserWarning, match="of 1 the design leaves nothing over"):
            cg.save(maps, tmp_path / "maps", prefix=noise)


def test_repetition_time__of_two_thousand_seconds_is_taken_for_milliseconds(run: Path) -> None:
    with pytest.raises(DesignError, match=r"pass t_r=2$"):
        cg.fit(run, EVENTS, t_r=2000)


def test_doors__say_what_they_take(run: Path) -> None:
    fit = cg.fit(run, make_design())
    with pytest.raises(MapsError, match="got Fit"):
        cg.save(fit, "out", prefix="x")  # type: ignore[arg-type]
    with pytest.raises(cg.ChunkglmError, match="got DataArray"):
        cg.contrast(cg.open_run(run), "a")  # type: ignore[arg-type]
