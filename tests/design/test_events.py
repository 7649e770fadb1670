"""Designs from events: nilearn's to the last bit, and refused where nilearn guesses."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import FirstLevelModel, make_first_level_design_matrix

from chunkglm.design import design_from_events
from chunkglm.errors import DesignError

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    # The mask given to FirstLevelModel, which is here for its design only.
    pytest.mark.filterwarnings("ignore:.*Generation of a mask:RuntimeWarning"),
]

N, TR = 60, 2.2
RNG = np.random.default_rng(11)
EVENTS = pd.DataFrame(
    {
        "onset": np.round(np.sort(RNG.uniform(0, N * TR - 20, 15)), 3),
        "duration": RNG.choice([0.0, 2.5, 8.0], 15),
        "trial_type": RNG.choice(["face", "house", "cat"], 15),
    }
)


def design(events=EVENTS, **options):
    return design_from_events(events, **{"n_scans": N, "t_r": TR, **options})


def refused(events=EVENTS, **options):
    with pytest.raises(DesignError) as caught:
        design(events, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def same(found, expected):
    """Values, names and frame times to the last bit."""
    assert found.to_numpy().tobytes() == expected.to_numpy().tobytes()
    assert list(found.columns) == list(expected.columns)
    assert found.index.tolist() == expected.index.tolist()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hrf_model": "spm + derivative + dispersion", "slice_time_ref": 0.5},
        {"hrf_model": "fir", "fir_delays": (0, 1, 3), "drift_model": "polynomial"},
        {"hrf_model": "glover + derivative", "drift_model": None, "slice_time_ref": 1.0},
        {"high_pass": 0.03, "min_onset": -10.0},
        {"drift_model": "polynomial", "drift_order": 3, "hrf_model": None},
    ],
)
@pytest.mark.parametrize("t_r", [TR, 0.72])
def test_design_from_events__equals_first_level_model(options, t_r):
    events = EVENTS.assign(onset=EVENTS["onset"] * t_r / TR)
    image = nib.Nifti1Image(RNG.standard_normal((2, 2, 2, N)).astype(np.float32), np.eye(4))
    mask = nib.Nifti1Image(np.ones((2, 2, 2), dtype=np.uint8), np.eye(4))
    model = FirstLevelModel(t_r=t_r, mask_img=mask, noise_model="ols", **options)
    expected = model.fit(image, events).design_matrices_[0]
    same(design(events, t_r=t_r, **options), expected)


def test_design_from_events__equals_nilearn_with_modulation_and_confounds(tmp_path, capsys):
    events = EVENTS.assign(modulation=np.linspace(0.5, 2, 15), response_time=1.5)
    confounds = pd.DataFrame(RNG.standard_normal((N, 2)), columns=["rot_x", "trans z"])
    expected = make_first_level_design_matrix(np.arange(N) * 2.5, events, add_regs=confounds)
    same(design(events, t_r=2.5, confounds=confounds), expected)
    assert {"rot_x", "trans z", "face"} <= set(expected.columns)
    events.to_csv(tmp_path / "e.csv")
    events.to_csv(tmp_path / "e.tsv", sep="\t", index=False, na_rep="n/a")
    confounds.to_csv(tmp_path / "c.tsv", sep="\t", index=False)
    for name in ("e.csv", "e.tsv"):
        same(design(tmp_path / name, t_r=2.5, confounds=tmp_path / "c.tsv"), expected)


def test_design_from_events__names_confounds_as_first_level_model_does(tmp_path):
    confounds = RNG.standard_normal((N, 2))
    np.savetxt(tmp_path / "c.csv", confounds, delimiter=",", fmt="%.17g")
    for given in (confounds, str(tmp_path / "c.csv")):
        found = design(confounds=given)
        assert found["confound_1"].tolist() == confounds[:, 1].tolist()
        assert list(found.columns[3:5]) == ["confound_0", "confound_1"]


@pytest.mark.parametrize("conditions", [[1, 2, 10], ["1", "2", "10"], [True, False, True]])
def test_design_from_events__conditions_that_are_numbers(tmp_path, conditions):
    events = EVENTS.assign(trial_type=conditions * 5)
    expected = make_first_level_design_matrix(np.arange(N) * 2.5, events)
    same(design(events, t_r=2.5), expected)
    events.to_csv(tmp_path / "e.tsv", sep="\t", index=False)
    found = design(tmp_path / "e.tsv", t_r=2.5)
    assert sorted(map(str, found.columns)) == sorted(map(str, expected.columns))
    for name in found.columns:
        other = expected.columns[[str(c) for c in expected.columns].index(str(name))]
        assert found[name].tolist() == expected[other].tolist()


def test_design_from_events__without_trial_type():
    found = design(EVENTS[["onset", "duration"]])
    assert found["dummy"].max() > 0
    assert "trial_type" not in EVENTS[["onset", "duration"]].columns


def test_design_from_events__does_not_change_its_input():
    events = pd.DataFrame({" onset ": ["1", "20"], "duration": pd.array([1, 2], "Int64")})
    before = events.copy()
    assert design(events).to_numpy().max() == 1
    pd.testing.assert_frame_equal(events, before)


def test_design_from_events__leaves_out_single_events_after_the_run():
    late = pd.DataFrame({"onset": [N * TR + 1], "duration": [2.0], "trial_type": ["face"]})
    found = design(pd.concat([EVENTS, late]))
    assert found.to_numpy().tolist() == design().to_numpy().tolist()


@pytest.mark.parametrize(
    ("events", "words"),
    [
        (EVENTS.drop(columns="onset"), ["no column 'onset'", "'duration', 'trial_type'"]),
        (EVENTS[["trial_type"]], ["no column 'onset', 'duration'"]),
        (EVENTS.iloc[:0], ["has no events"]),
        (EVENTS.replace({"onset": {EVENTS.onset[2]: np.nan}}), ["'onset' has NaN", "row 2 "]),
        (EVENTS.assign(duration=[1, None, *[1] * 13]), ["'duration' has NaN", "row 1 "]),
        (EVENTS.assign(onset=[*["1"] * 14, "x"]), ["'onset' is not numeric", "'x' in row 14 "]),
        (EVENTS.assign(modulation=[np.inf, *[1] * 14]), ["'modulation' has an infinite", "row 0 "]),
        (EVENTS.assign(duration=[1, -2.5, *[1] * 13]), ["duration in row 1 ", "(-2.5 s)"]),
        (EVENTS.assign(trial_type=["a", None, *["a"] * 13]), ["trial_type in row 1 ", "missing"]),
        (EVENTS.assign(trial_type=["a", "n/a", *["a"] * 13]), ["trial_type in row 1 "]),
        (EVENTS.assign(onset=np.arange(15) + 1000), ["onset is at 1014 s", "run is 132 s long"]),
        (EVENTS.assign(onset=EVENTS.onset * 1000 + 200), ["after the run's end", "in seconds"]),
        (
            EVENTS.assign(
                onset=EVENTS.onset.where(EVENTS.trial_type != "cat", 500),
            ),
            ["all events of 'cat'", "last onset is at 500 s", "132 s long"],
        ),
        (EVENTS.set_axis(["onset", "onset", "duration"], axis=1), ["more than one column 'onset'"]),
        (EVENTS.to_numpy(), ["but got ndarray"]),
        (None, ["but got NoneType"]),
        ("events.xlsx", ["events.xlsx is not a .csv or .tsv file"]),
        ("events.tsv", ["events.tsv does not exist"]),
    ],
)
def test_design_from_events__refuses_events(events, words):
    message = refused(events)
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("confounds", "words"),
    [
        (np.ones((N - 1, 2)), ["confounds has 59 rows but the run has 60 volumes"]),
        (np.full((N, 2), np.nan), ["confounds: column '0' has NaN", "row 0 "]),
        (np.ones(N), ["confounds must be a 2-D array", "reshape(-1, 1)"]),
        (np.ones((N, 0)), ["60 rows and 0 columns"]),
        (np.ones((N, 2)) * 1j, ["confounds is complex"]),
        (pd.DataFrame({"csf": ["a"] * N}), ["confounds: column 'csf' is not numeric"]),
        (pd.DataFrame({"face": np.arange(N)}), ["unique names"]),
        ([[1.0]] * N, ["but got list"]),
        ("missing.tsv", ["missing.tsv does not exist"]),
    ],
)
def test_design_from_events__refuses_confounds(confounds, words):
    message = refused(confounds=confounds)
    assert [word for word in words if word not in message] == []


def test_design_from_events__names_the_confounds_file(tmp_path):
    table = pd.DataFrame({"fd": [np.nan, *np.ones(N - 1)], "csf": np.arange(N)})
    table.to_csv(tmp_path / "confounds [1].tsv", sep="\t", index=False, na_rep="n/a")
    message = refused(confounds=tmp_path / "confounds [1].tsv")
    assert f"{tmp_path}/confounds [1].tsv: column 'fd' has NaN" in message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"t_r": 0}, ["t_r must be a positive number"]),
        ({"t_r": None}, ["t_r must be a positive number"]),
        ({"n_scans": 0}, ["n_scans must be a positive whole number"]),
        ({"n_scans": 1}, ["at least 2 volumes"]),
        ({"slice_time_ref": 1.1}, ["slice_time_ref", "1.1"]),
        ({"slice_time_ref": np.nan}, ["slice_time_ref", "nan"]),
        ({"hrf_model": "fir", "fir_delays": (0.5,)}, ["fir_delays", "(0.5,)"]),
        ({"hrf_model": "fir", "fir_delays": ("1",)}, ["fir_delays"]),
        ({"hrf_model": "gauss"}, ["events: nilearn makes no design", "gauss"]),
        ({"drift_model": "wavelet"}, ["nilearn makes no design", "wavelet"]),
    ],
)
def test_design_from_events__refuses_options(options, words):
    message = refused(**options)
    assert [word for word in words if word not in message] == []
