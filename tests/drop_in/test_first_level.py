"""`FirstLevelModel` beside nilearn's, by nilearn's documentation: what `fit` is given."""

import inspect
from pathlib import Path
from typing import Any

import nibabel as nib
import nilearn.glm.first_level
import numpy as np
import pandas as pd
import pytest
from helpers_drop_in import (
    AFFINE,
    SAME_FROM_INTEGERS,
    T_R,
    blocks_read,
    check_images,
    check_same,
    fit_both,
    make_confounds,
    make_events,
    make_mask,
    make_run,
)
from nilearn.glm.first_level import make_first_level_design_matrix
from nilearn.maskers import NiftiMasker
from sklearn.base import clone

import chunkglm as cg
from chunkglm.io.nifti import NiftiRun
from chunkglm.nilearn import FirstLevelModel

RUN, EVENTS = make_run(), make_events()


def design(n_scans: int = 40, seed: int = 0, **choices: Any) -> pd.DataFrame:
    return make_first_level_design_matrix(np.arange(n_scans) * T_R, make_events(seed), **choices)


# Parameters ----------------------------------------------------------------------------------


def test_signature__is_nilearns() -> None:
    theirs = nilearn.glm.first_level.FirstLevelModel
    for ours, other in (
        (FirstLevelModel, theirs),
        (FirstLevelModel.fit, theirs.fit),
        (FirstLevelModel.compute_contrast, theirs.compute_contrast),
    ):
        found = [(p.name, p.default) for p in inspect.signature(ours).parameters.values()]
        assert found == [(p.name, p.default) for p in inspect.signature(other).parameters.values()]
    assert FirstLevelModel().get_params() == theirs().get_params()


@pytest.mark.parametrize("kind", [FirstLevelModel, nilearn.glm.first_level.FirstLevelModel])
def test_parameters__get_set_and_clone(kind: Any) -> None:
    model = kind(t_r=T_R, noise_model="ols", smoothing_fwhm=4)
    copy = clone(model.set_params(high_pass=0.02))
    assert type(copy) is kind
    assert copy.get_params() == model.get_params()
    assert copy.high_pass == 0.02
    fitted = model.set_params(mask_img=make_mask()).fit(RUN, EVENTS)
    assert fitted is model
    assert not hasattr(clone(fitted), "results_")


def test_fit__is_never_nilearns(monkeypatch: pytest.MonkeyPatch) -> None:
    """nilearn's own fit calls the hooks that this class replaces."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("nilearn fitted")

    monkeypatch.setattr("nilearn.glm.first_level.first_level.run_glm", refuse)
    FirstLevelModel(t_r=T_R, mask_img=make_mask()).fit(RUN, EVENTS)
    with pytest.raises(AssertionError, match="nilearn fitted"):
        nilearn.glm.first_level.FirstLevelModel(t_r=T_R, mask_img=make_mask()).fit(RUN, EVENTS)


def test_fit__needs_the_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(nilearn.glm.first_level.FirstLevelModel, "_fit_single_run")
    with pytest.raises(ImportError, match="_fit_single_run"):
        FirstLevelModel(t_r=T_R).fit(RUN, EVENTS)


@pytest.mark.parametrize(
    "model",
    [
        {"slice_time_ref": 0.5},
        {"hrf_model": "spm"},
        {"hrf_model": "spm + derivative"},
        {"hrf_model": "glover + derivative + dispersion"},
        {"hrf_model": None},
        {"drift_model": None},
        {"drift_model": "polynomial", "drift_order": 3},
        {"high_pass": 0.03},
        {"min_onset": -3},
        {"smoothing_fwhm": 5},
        {"smoothing_fwhm": 0},
        {"noise_model": "ols"},
        {"noise_model": "ar1", "smoothing_fwhm": 7},
        {"signal_scaling": False},
        {"signal_scaling": (0, 1)},
        {"signal_scaling": (0, 1), "smoothing_fwhm": 6},
        {"standardize": True},
        {"minimize_memory": False},
        {"n_jobs": 2},
        {"memory_level": 0},
        {"random_state": 3},
        {"reports": False},
    ],
    ids=str,
)
def test_model__parameters_mean_what_they_do_in_nilearn(model: dict[str, Any]) -> None:
    models = fit_both(RUN, model=model, events=EVENTS)
    pd.testing.assert_frame_equal(models[0].design_matrices_[0], models[1].design_matrices_[0])
    check_same(models)


def test_fir_delays__make_nilearns_columns() -> None:
    models = fit_both(RUN, model={"hrf_model": "fir", "fir_delays": [1, 2, 3]}, events=EVENTS)
    pd.testing.assert_frame_equal(models[0].design_matrices_[0], models[1].design_matrices_[0])
    check_same(models, "face_delay_2 - house_delay_2")
    assert models[0].fir_delays_ == [1, 2, 3]


@pytest.mark.parametrize("bins", [1, 10, 100])
def test_bins__truncate_the_coefficient_as_in_nilearn(bins: int) -> None:
    models = fit_both(RUN, events=EVENTS, bins=bins)
    check_same(models)
    inside = make_mask().get_fdata() > 0
    theirs = models[1].labels_[0].astype(float)
    np.testing.assert_allclose(models[0].labels_[0].to_numpy()[0][inside], theirs, atol=1e-12)


def test_noise_model__of_higher_order_is_exact_in_each_voxel() -> None:
    """nilearn clusters the coefficients; with a cluster for every voxel it is exact as well."""
    few = np.zeros(make_mask().shape, np.uint8)
    few[4, 4:7, 4] = 1
    model = {"noise_model": "ar2", "mask_img": nib.Nifti1Image(few, AFFINE)}
    check_same(fit_both(RUN, model=model, events=EVENTS))


def test_memory__is_nilearns_maskers(tmp_path: Path) -> None:
    check_same(fit_both(RUN, model={"memory": str(tmp_path)}, events=EVENTS))


def test_signal_scaling_1__scales_each_volume_as_documented() -> None:
    """nilearn 0.14 raises: it divides (volumes, voxels) by (volumes,)."""
    model = {"signal_scaling": 1, "smoothing_fwhm": 5}
    with pytest.raises(ValueError, match="broadcast"):
        fit_both(RUN, model=model, events=EVENTS)
    from nilearn.image import smooth_img

    found = FirstLevelModel(t_r=T_R, mask_img=make_mask(), **model).fit(RUN, EVENTS)
    smooth = smooth_img(RUN, 5).get_fdata()
    inside = make_mask().get_fdata() > 0
    percent = 100 * (smooth / smooth[inside].mean(axis=0) - 1)
    theirs = nilearn.glm.first_level.FirstLevelModel(
        t_r=T_R, mask_img=make_mask(), signal_scaling=False
    ).fit(nib.Nifti1Image(percent, AFFINE), EVENTS)
    check_same((found, theirs))


@pytest.mark.parametrize(
    ("model", "word"),
    [
        ({"target_affine": np.eye(3) * 4}, "target_affine"),
        ({"target_shape": (4, 4, 4), "target_affine": np.eye(4)}, "target_affine"),
        ({"standardize": True, "signal_scaling": False}, "standardize"),
        ({"standardize": "psc", "signal_scaling": False}, "standardize"),
        ({"smoothing_fwhm": "fast"}, "smoothing_fwhm"),
        ({"smoothing_fwhm": [4, 4, 4]}, "smoothing_fwhm"),
        ({"noise_model": "ma1"}, "ma1"),
    ],
)
def test_model__what_cannot_be_honoured_is_refused_by_name(model: Any, word: str) -> None:
    parameters = {"t_r": T_R, "mask_img": make_mask(), **model}
    with pytest.raises(ValueError, match=word) as caught:
        FirstLevelModel(**parameters).fit(RUN, EVENTS)
    assert isinstance(caught.value, cg.ChunkglmError)
    theirs = nilearn.glm.first_level.FirstLevelModel(**parameters)
    if word in ("ma1", "smoothing_fwhm"):
        with pytest.raises((ValueError, TypeError)):
            theirs.fit(RUN, EVENTS)
    else:
        assert theirs.fit(RUN, EVENTS).results_


# Masks ---------------------------------------------------------------------------------------


def test_mask_img__none_is_computed_as_in_nilearn() -> None:
    runs = [make_run(seed=i) for i in range(2)]
    models = fit_both(runs, model={"mask_img": None}, events=[make_events(i) for i in range(2)])
    ours, theirs = (m.mask_img_.get_fdata() for m in models)
    np.testing.assert_array_equal(ours, theirs)
    assert 100 < ours.sum() < ours.size
    check_same(models)


def test_mask_img__none_keeps_constant_voxels_in_view() -> None:
    data = RUN.get_fdata().copy()
    data[4, 4, 4] = 900.0
    run = nib.Nifti1Image(data, AFFINE)
    models = fit_both(run, model={"mask_img": None}, events=EVENTS)
    np.testing.assert_array_equal(*(m.mask_img_.get_fdata() for m in models))
    assert models[0].mask_img_.get_fdata()[4, 4, 4]
    z = models[0].compute_contrast("face").get_fdata()
    assert z[4, 4, 4] == 0
    assert models[0].compute_contrast("face", output_type="p_value").get_fdata()[4, 4, 4] == 1


def test_voxels__that_are_constant_have_no_statistic() -> None:
    data = RUN.get_fdata().copy()
    data[4, 4, 4] = 0.1
    models = fit_both(nib.Nifti1Image(data, AFFINE), events=EVENTS)
    ours, theirs = (m.compute_contrast("face", output_type="stat").get_fdata() for m in models)
    assert ours[4, 4, 4] == 0
    assert abs(theirs[4, 4, 4]) > 0.1  # of nothing but rounding


@pytest.mark.parametrize("kind", ["false", "path", "image", "masker", "smoothing masker"])
def test_mask_img__of_every_kind(kind: str, tmp_path: Path) -> None:
    nib.save(make_mask(), tmp_path / "mask.nii.gz")
    masker = NiftiMasker(make_mask(), standardize=None).fit()
    smoothing = NiftiMasker(make_mask(), standardize=None, smoothing_fwhm=6).fit()
    masks = {"false": False, "path": tmp_path / "mask.nii.gz", "image": make_mask()}
    mask = masks.get(kind, smoothing if kind.startswith("smoothing") else masker)
    models = fit_both(RUN, model={"mask_img": mask}, events=EVENTS)
    check_same(models)
    assert models[0].n_elements_ == models[1].n_elements_
    assert type(models[0].masker_) is type(models[1].masker_)


def test_mask_img__on_another_grid_is_refused() -> None:
    """nilearn resamples the run in silence."""
    moved = nib.Nifti1Image(make_mask().get_fdata(), AFFINE + np.eye(4, k=3))
    with pytest.raises(cg.ChunkglmError, match="affine"):
        FirstLevelModel(t_r=T_R, mask_img=moved).fit(RUN, EVENTS)
    assert nilearn.glm.first_level.FirstLevelModel(t_r=T_R, mask_img=moved).fit(RUN, EVENTS)


def test_mask_img__a_masker_that_filters_is_refused() -> None:
    masker = NiftiMasker(make_mask(), standardize=None, detrend=True).fit()
    with pytest.raises(ValueError, match="detrend"):
        FirstLevelModel(t_r=T_R, mask_img=masker).fit(RUN, EVENTS)
    assert nilearn.glm.first_level.FirstLevelModel(t_r=T_R, mask_img=masker).fit(RUN, EVENTS)


# Runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [".nii", ".nii.gz", "str", "list", "loaded", "float32"])
def test_runs__of_every_kind(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"run{kind if kind.startswith('.') else '.nii.gz'}"
    nib.save(RUN, path)
    run: Any = {
        "str": str(path),
        "list": [path],
        "loaded": nib.load(path),
        "float32": nib.Nifti1Image(RUN.get_fdata().astype(np.float32), AFFINE),
    }.get(kind, path)
    # nilearn keeps float32 throughout: samples are rounded to 6e-8 of their level.
    check_same(
        fit_both(run, events=EVENTS), tolerance=SAME_FROM_INTEGERS if kind == "float32" else 1e-10
    )


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.int32])
def test_runs__of_integers(dtype: Any) -> None:
    run = RUN if dtype is not np.uint8 else nib.Nifti1Image(RUN.get_fdata() / 6, AFFINE)
    data = run.get_fdata().round().astype(dtype)
    check_same(fit_both(nib.Nifti1Image(data, AFFINE), events=EVENTS), tolerance=SAME_FROM_INTEGERS)


def test_runs__in_a_tuple() -> None:
    """As documented; nilearn 0.14 raises when it prepares the report."""
    with pytest.raises(TypeError, match="5D"):
        fit_both((RUN,), events=EVENTS)
    found = FirstLevelModel(t_r=T_R, mask_img=make_mask()).fit((RUN,), EVENTS)
    check_same((found, fit_both(RUN, events=EVENTS)[1]))


def test_runs__stores_and_arrays(tmp_path: Path) -> None:
    nib.save(RUN, tmp_path / "run.nii")
    store = cg.convert(tmp_path / "run.nii", tmp_path / "run.zarr", progress=False)
    expected = fit_both(tmp_path / "run.nii", events=EVENTS)[1]
    for run in (store, [store], cg.open_run(store), cg.open_run(tmp_path / "run.nii") * 1.0):
        found = FirstLevelModel(t_r=T_R, mask_img=make_mask()).fit(run, EVENTS)
        check_same((found, expected))
    found = FirstLevelModel(t_r=T_R).fit(store, EVENTS)
    check_same((found, fit_both(tmp_path / "run.nii", model={"mask_img": None}, events=EVENTS)[1]))


def test_runs__that_are_damaged_are_named(tmp_path: Path) -> None:
    path = tmp_path / "run.nii.gz"
    nib.save(RUN, path)
    path.write_bytes(path.read_bytes()[:-2000])
    model = FirstLevelModel(t_r=T_R, mask_img=make_mask())
    with pytest.raises(cg.ChunkglmError, match=r"run\.nii\.gz"):
        model.fit(path, EVENTS)


def test_runs__changed_in_memory_are_not_read_from_their_file(tmp_path: Path) -> None:
    nib.save(RUN, tmp_path / "run.nii")
    image = nib.load(tmp_path / "run.nii")
    image.get_fdata()[..., 5] += 30
    changed = nib.Nifti1Image(image.get_fdata(), image.affine, image.header)
    check_same(fit_both(changed, events=EVENTS))


@pytest.mark.parametrize(
    ("model", "choices"),
    [
        ({}, {}),
        ({"signal_scaling": (0, 1), "smoothing_fwhm": 5}, {}),
        ({"smoothing_fwhm": 5}, {"sample_masks": np.arange(2, 38)}),
    ],
    ids=["plain", "grand mean", "sample masks"],
)
def test_runs__from_files_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Any, choices: Any
) -> None:
    nib.save(RUN, tmp_path / "run.nii.gz")
    passes = blocks_read(monkeypatch)
    monkeypatch.setattr(NiftiRun, "read", None)
    ours = FirstLevelModel(t_r=T_R, mask_img=make_mask(), **model)
    ours.fit(tmp_path / "run.nii.gz", EVENTS, **choices)
    # One pass to fit; the masker is shown one volume, which nibabel reads.
    assert len(passes) == 1


def test_runs__several_with_designs_of_their_own() -> None:
    runs = [make_run(40, 0), make_run(46, 1), make_run(40, 2)]
    models = fit_both(
        runs,
        events=[make_events(i) for i in range(3)],
        confounds=[make_confounds(n, i) for i, n in enumerate((40, 46, 40))],
    )
    assert len(models[0].design_matrices_) == 3
    check_same(models)
    check_same(models, "face")


# Tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["frame", "list", "path", "str", "no types", "modulated"])
def test_events__of_every_kind(kind: str, tmp_path: Path) -> None:
    EVENTS.to_csv(tmp_path / "events.tsv", sep="\t", index=False)
    events: Any = {
        "list": [EVENTS],
        "path": tmp_path / "events.tsv",
        "str": str(tmp_path / "events.tsv"),
        "no types": EVENTS.drop(columns="trial_type"),
        "modulated": EVENTS.assign(modulation=np.linspace(0.5, 2, 10)),
    }.get(kind, EVENTS)
    models = fit_both(RUN, events=events)
    check_same(models, "dummy" if kind == "no types" else "face - house")


@pytest.mark.parametrize("kind", ["frame", "list", "array", "path"])
def test_confounds__of_every_kind(kind: str, tmp_path: Path) -> None:
    confounds = make_confounds()
    confounds.to_csv(tmp_path / "confounds.tsv", sep="\t", index=False)
    given: Any = {
        "list": [confounds],
        "array": [confounds.to_numpy()],
        "path": tmp_path / "confounds.tsv",
    }.get(kind, confounds)
    models = fit_both(RUN, events=EVENTS, confounds=given)
    assert list(models[0].design_matrices_[0]) == list(models[1].design_matrices_[0])
    check_same(models)


@pytest.mark.parametrize("kind", ["frame", "list", "csv", "tsv", "ignoring events"])
def test_design_matrices__of_every_kind(kind: str, tmp_path: Path) -> None:
    # The index of a csv file becomes a column, in both: frame times, a drift of their own.
    X = design(drift_model=None)
    X.to_csv(tmp_path / "design.tsv", sep="\t", index=False)
    X.to_csv(tmp_path / "design.csv")
    given: Any = {
        "list": [X],
        "csv": tmp_path / "design.csv",
        "tsv": tmp_path / "design.tsv",
    }.get(kind, X)
    events = EVENTS if kind.startswith("ignoring") else None
    models = fit_both(RUN, design_matrices=given, events=events)
    check_same(models)


def test_design_matrices__without_a_constant() -> None:
    X = design(drift_model=None).drop(columns="constant")
    ols = {"noise_model": "ols"}
    check_same(fit_both(RUN, design_matrices=X, model=ols))
    # nilearn takes the mean residual of all voxels off before it estimates the noise, so that a
    # voxel's t hangs on the others; here it does not.
    one = make_mask().get_fdata() > 0
    one[:, :, 4:] = False
    part = nib.Nifti1Image(one.astype(np.uint8), AFFINE)
    whole, half = (fit_both(RUN, design_matrices=X, model=m) for m in ({}, {"mask_img": part}))
    apart = [
        np.abs(
            (a.compute_contrast("face").get_fdata() - b.compute_contrast("face").get_fdata())[one]
        ).max()
        for a, b in zip(whole, half, strict=True)
    ]
    assert apart[0] < 1e-10
    assert apart[1] > 1e-3


@pytest.mark.parametrize("kind", ["indices", "bool", "list"])
def test_sample_masks__drop_volumes(kind: str) -> None:
    kept = np.delete(np.arange(40), [0, 1, 17, 18, 30])
    given: Any = {
        "indices": kept,
        "bool": np.isin(np.arange(40), kept),
        "list": [kept],
    }[kind]
    models = fit_both(RUN, events=EVENTS, sample_masks=given)
    assert len(models[0].design_matrices_[0]) == 35
    pd.testing.assert_frame_equal(models[0].design_matrices_[0], models[1].design_matrices_[0])
    check_same(models)


@pytest.mark.parametrize(
    "model",
    [
        {"smoothing_fwhm": 5},
        {"smoothing_fwhm": 5, "signal_scaling": (0, 1)},
        {"signal_scaling": False},
        {"noise_model": "ols"},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["image", "file", "array"])
def test_sample_masks__with_smoothing_and_scaling(model: Any, kind: str, tmp_path: Path) -> None:
    kept = np.delete(np.arange(40), [0, 1, 17, 18, 30])
    nib.save(RUN, tmp_path / "run.nii.gz")
    theirs = fit_both(RUN, model=model, events=EVENTS, sample_masks=kept)[1]
    run: Any = {
        "image": RUN,
        "file": tmp_path / "run.nii.gz",
        "array": cg.open_run(tmp_path / "run.nii.gz") * 1.0,
    }[kind]
    ours = FirstLevelModel(t_r=T_R, mask_img=make_mask(), **model)
    check_same((ours.fit(run, EVENTS, sample_masks=kept), theirs))


@pytest.mark.parametrize("name", ["residuals_", "predicted_", "r_square_"])
def test_sample_masks__series_are_of_the_kept_volumes(name: str) -> None:
    kept = np.delete(np.arange(40), [0, 1, 17, 18, 30])
    model = {"minimize_memory": False, "signal_scaling": (0, 1)}
    models = fit_both(RUN, model=model, events=EVENTS, sample_masks=kept)
    ours, theirs = (getattr(m, name)[0] for m in models)
    assert ours.shape == theirs.shape
    check_images(ours, theirs, name=name)


def test_sample_masks__that_go_back_are_refused() -> None:
    """nilearn takes volumes in the order, and as often, as they are named."""
    kept = np.r_[10:40, 0:10]
    with pytest.raises(cg.ChunkglmError, match=r"sample_masks: .*ascending"):
        FirstLevelModel(t_r=T_R, mask_img=make_mask()).fit(RUN, EVENTS, sample_masks=kept)
    theirs = nilearn.glm.first_level.FirstLevelModel(t_r=T_R, mask_img=make_mask())
    assert theirs.fit(RUN, EVENTS, sample_masks=kept).results_


# What both refuse ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "choices", "model"),
    [
        (nib.Nifti1Image(RUN.get_fdata()[..., 0], AFFINE), {"events": EVENTS}, {}),
        (
            nib.Nifti1Image(RUN.get_fdata()[..., 0], AFFINE),
            {"design_matrices": design()},
            {},
        ),
        (RUN, {}, {}),
        (RUN, {"events": EVENTS}, {"t_r": None}),
        (RUN, {"events": EVENTS}, {"t_r": -1}),
        (RUN, {"events": EVENTS}, {"slice_time_ref": 2}),
        (RUN, {"events": EVENTS}, {"hrf_model": "unknown"}),
        (RUN, {"events": EVENTS}, {"drift_model": "unknown"}),
        (RUN, {"events": EVENTS}, {"noise_model": "arx"}),
        (RUN, {"events": EVENTS}, {"signal_scaling": "percent"}),
        (RUN, {"events": [EVENTS, EVENTS]}, {}),
        (RUN, {"events": EVENTS, "confounds": make_confounds(39)}, {}),
        (RUN, {"events": EVENTS, "sample_masks": [np.arange(3), np.arange(3)]}, {}),
        (RUN, {"design_matrices": design(41)}, {}),
        ([RUN, nib.Nifti1Image(RUN.get_fdata()[1:], AFFINE)], {"events": [EVENTS] * 2}, {}),
        (7, {"events": EVENTS}, {}),
        ([7], {"events": EVENTS}, {}),
    ],
    ids=range(17),
)
def test_fit__what_nilearn_refuses_is_refused_with_the_same_kind(
    run: Any, choices: Any, model: Any
) -> None:
    kinds, expected = [], (ValueError, TypeError, NotImplementedError)
    for module in (FirstLevelModel, nilearn.glm.first_level.FirstLevelModel):
        with pytest.raises(expected) as caught:
            module(**{"t_r": T_R, "mask_img": make_mask(), **model}).fit(run, **choices)
        kinds.append([k for k in expected if isinstance(caught.value, k)])
    # An image of one volume is refused before nilearn would look at its axes.
    one_volume = getattr(run, "ndim", 4) == 3
    assert one_volume or kinds[0] == kinds[1]
