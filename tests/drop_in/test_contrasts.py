"""Contrasts and attributes of `FirstLevelModel` beside nilearn's; what nilearn does with them."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from helpers_drop_in import (
    AFFINE,
    OUTPUTS,
    T_R,
    check_images,
    check_nilearn_takes,
    check_same,
    contrast_both,
    fit_both,
    make_confounds,
    make_events,
    make_mask,
    make_run,
    quietly,
)

import chunkglm as cg
from chunkglm.nilearn import FirstLevelModel

mpl.use("Agg")


@pytest.fixture(scope="module")
def one() -> Any:
    return fit_both(make_run(), events=make_events())


@pytest.fixture(scope="module")
def several() -> Any:
    return fit_both(
        [make_run(40, 0), make_run(46, 1)],
        events=[make_events(i) for i in range(2)],
        confounds=[make_confounds(40), make_confounds(46)],
    )


@pytest.fixture(scope="module")
def kept() -> Any:
    return fit_both(make_run(), events=make_events(), model={"minimize_memory": False})


# Definitions ---------------------------------------------------------------------------------

COLUMNS = ["face", "house", "drift_1", "constant"]


@pytest.mark.parametrize(
    "contrast",
    [
        "face",
        "face - house",
        "(face + house) / 2 - 0.5*drift_1",
        "-face",
        np.array([1, -1, 0, 0]),
        np.array([1.0, -1.0]),
        [np.array([1, -1, 0, 0])],
        ["face - house"],
        np.eye(4)[:2],
        np.eye(4),
        [np.eye(4)[:3]],
        np.array([[1, -1, 0, 0]]),
        [[1, -1, 0, 0]],
        (np.array([0, 1, 0, 0]),),
    ],
    ids=str,
)
def test_contrast__defined_in_every_way(one: Any, contrast: Any) -> None:
    assert list(one[0].design_matrices_[0]) == COLUMNS
    check_same(one, contrast)


@pytest.mark.parametrize("contrast", ["face", np.array([1, -1, 0, 0]), np.eye(4)[:2]], ids=str)
def test_stat_type__f_of_anything(one: Any, contrast: Any) -> None:
    check_same(one, contrast, stat_type="F")


def test_stat_type__t_of_one_row(one: Any) -> None:
    check_same(one, np.array([[1, -1, 0, 0]]), stat_type="t")


@pytest.mark.parametrize("output_type", OUTPUTS)
@pytest.mark.parametrize("contrast", ["face - house", np.eye(4)[:2]], ids=["t", "F"])
def test_output_type__one_by_one(one: Any, output_type: str, contrast: Any) -> None:
    ours, theirs = contrast_both(one, contrast, output_type=output_type)
    check_images(ours, theirs)
    assert bytes(ours.header["descrip"])[:12] == bytes(theirs.header["descrip"])[:12]
    assert ours.get_data_dtype() == theirs.get_data_dtype()


def test_output_type__is_z_score_by_default(one: Any) -> None:
    check_images(*contrast_both(one, "face"))
    np.testing.assert_array_equal(
        one[0].compute_contrast("face").get_fdata(),
        one[0].compute_contrast("face", output_type="all")["z_score"].get_fdata(),
    )


@pytest.mark.parametrize(
    "contrast",
    [
        "face - house",
        ["face - house", "face - house"],
        ["face", "house"],
        [np.array([1, -1, 0, 0, 0, 0]), np.array([1, -1, 0, 0, 0, 0])],
        [np.array([1, -1]), "face"],
        ["face", np.zeros(6)],
        [np.eye(6)[:2], np.eye(6)[:2]],
    ],
    ids=str,
)
def test_several_runs__are_combined_as_nilearn_does(several: Any, contrast: Any) -> None:
    check_same(several, contrast)


def test_several_runs__warn_as_nilearn_does(several: Any) -> None:
    for model in several:
        with pytest.warns(RuntimeWarning, match="same contrast will be used for all 2 runs"):
            model.compute_contrast("face")
        with pytest.warns(UserWarning, match="Contrast for run 1 is null"):
            model.compute_contrast(["face", np.zeros(6)])
        with pytest.warns(UserWarning, match="approximate fixed effects on F"):
            model.compute_contrast([np.eye(6)[:2]] * 2)


def test_short_vectors__are_filled_with_a_warning(one: Any) -> None:
    for model in one:
        with pytest.warns(UserWarning, match="weights|contrasts should be of length"):
            model.compute_contrast(np.array([1, -1]))


@pytest.mark.parametrize(
    ("contrast", "choices"),
    [
        ("nobody - house", {}),
        (np.zeros(4), {}),
        (np.ones(9), {}),
        (np.eye(9)[:2], {}),
        (np.eye(4)[:2], {"stat_type": "t"}),
        (["face", "house"], {}),
        (7, {}),
        ({"face": 1}, {}),
        ([], {}),
        ("face", {"output_type": "zscore"}),
        ("face", {"stat_type": "z"}),
    ],
    ids=str,
)
def test_contrast__what_nilearn_refuses_is_refused(
    one: Any, contrast: Any, choices: dict[str, Any]
) -> None:
    for model in one:
        with quietly(), pytest.raises(ValueError):
            model.compute_contrast(contrast, **choices)


def test_contrast__before_fit_is_refused_alike() -> None:
    from nilearn.glm.first_level import FirstLevelModel as Theirs

    kinds = []
    for kind in (FirstLevelModel, Theirs):
        with pytest.raises(ValueError, match="not fitted") as caught:
            kind(t_r=T_R).compute_contrast("face")
        kinds.append(type(caught.value))
    assert kinds[0] is kinds[1]


def test_contrast__text_is_never_evaluated(one: Any, tmp_path: Path) -> None:
    there = tmp_path / "made"
    attempt = f"@__import__('pathlib').Path({str(there)!r}).touch()"
    with pytest.raises(cg.ChunkglmError):
        one[0].compute_contrast(attempt)
    assert not there.exists()


def test_redundant_columns__rank_divides_the_variance() -> None:
    """nilearn divides by volumes minus columns and reports the degrees of freedom of the rank."""
    X = fit_both(make_run(), events=make_events())[0].design_matrices_[0]
    doubled = X.assign(again=X["face"] + X["house"])
    models = fit_both(make_run(), design_matrices=doubled)
    ours, theirs = contrast_both(models, "face - house", output_type="effect_variance")
    inside = make_mask().get_fdata() > 0
    ratio = (theirs.get_fdata() / ours.get_fdata().clip(1e-300))[inside]
    np.testing.assert_allclose(ratio, 36 / 35, rtol=1e-6)
    with pytest.raises(cg.ChunkglmError, match="face"):
        models[0].compute_contrast("face")


# Attributes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["residuals_", "predicted_", "r_square_"])
def test_series__are_nilearns(kept: Any, name: str) -> None:
    ours, theirs = (getattr(model, name) for model in kept)
    assert len(ours) == len(theirs) == 1
    check_images(ours[0], theirs[0], name=name)


@pytest.mark.parametrize("name", ["residuals", "predicted", "r_square"])
def test_series__by_their_older_names(kept: Any, name: str) -> None:
    for model in kept:
        with pytest.warns(FutureWarning):
            found = getattr(model, name)
        np.testing.assert_array_equal(
            found[0].get_fdata(), getattr(model, f"{name}_")[0].get_fdata()
        )


@pytest.mark.parametrize("noise", ["ols", "ar1"])
@pytest.mark.parametrize("attribute", ["normalized_residuals", "SSE", "MSE"])
def test_series__others(noise: str, attribute: str) -> None:
    model = {"minimize_memory": False, "noise_model": noise, "smoothing_fwhm": 5}
    models = fit_both(make_run(), events=make_events(), model=model)
    ours, theirs = (
        m._get_element_wise_model_attribute(attribute, "residuals" in attribute) for m in models
    )
    check_images(ours[0], theirs[0], name=attribute)


def test_series__need_minimize_memory_false(one: Any) -> None:
    for model in one:
        with pytest.raises(AttributeError, match="minimize_memory"):
            _ = model.residuals_


def test_attributes__after_fit(one: Any) -> None:
    ours, theirs = one
    pd.testing.assert_frame_equal(ours.design_matrices_[0], theirs.design_matrices_[0])
    np.testing.assert_array_equal(ours.mask_img_.get_fdata(), theirs.mask_img_.get_fdata())
    assert type(ours.masker_) is type(theirs.masker_)
    assert ours.n_elements_ == theirs.n_elements_
    assert ours.standardize_ == theirs.standardize_
    assert ours.fir_delays_ == theirs.fir_delays_
    assert str(ours) == str(theirs)
    assert len(ours.labels_) == len(theirs.labels_) == 1
    assert isinstance(ours.results_[0], cg.Fit)
    assert ours.results_[0].dof == theirs.results_[0][theirs.labels_[0][0]].df_residuals


# What nilearn does with them -----------------------------------------------------------------


def test_images__are_taken_by_nilearn(one: Any) -> None:
    from nilearn.plotting import plot_stat_map

    z = one[0].compute_contrast("face + house")
    check_nilearn_takes(z, make_mask())
    plot_stat_map(z, bg_img=make_mask()).close()


def test_second_level__takes_models_and_images() -> None:
    from nilearn.glm.second_level import SecondLevelModel

    subjects = []
    for i in range(4):
        choices = {"subject_label": f"sub-{i}"}
        subjects.append(fit_both(make_run(seed=i), events=make_events(i), model=choices))
    confounds = pd.DataFrame({"subject_label": [f"sub-{i}" for i in range(4)], "age": [1, 5, 2, 9]})
    found = []
    for models in zip(*subjects, strict=True):
        level = SecondLevelModel(mask_img=make_mask()).fit(list(models), confounds=confounds)
        found.append(level.compute_contrast("intercept", first_level_contrast="face - house"))
    check_images(*found)
    maps = [ours.compute_contrast("face", output_type="effect_size") for ours, _ in subjects]
    level = SecondLevelModel(mask_img=make_mask()).fit(
        maps, design_matrix=pd.DataFrame({"intercept": [1] * 4})
    )
    assert np.abs(level.compute_contrast("intercept").get_fdata()).max() > 1


def test_reports__and_bids_outputs_are_nilearns(kept: Any, tmp_path: Path) -> None:
    from nilearn.glm import save_glm_to_bids

    written = []
    for name, model in zip(("ours", "theirs"), kept, strict=True):
        with quietly():
            report = model.generate_report(contrasts="face - house", threshold=1.0)
            save_glm_to_bids(model, contrasts=["face - house"], out_dir=tmp_path / name)
        assert "face - house" in str(report)
        files = {p.relative_to(tmp_path / name) for p in (tmp_path / name).rglob("*.*")}
        written.append(files)
    assert written[0] == written[1]
    assert any(str(p).endswith("stat-z_statmap.nii.gz") for p in written[0])


def test_affine__is_the_runs(one: Any) -> None:
    np.testing.assert_array_equal(one[0].compute_contrast("face").affine, AFFINE)
