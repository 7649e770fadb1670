"""Confounds by name or pattern: tables like fMRIPrep's, beside nilearn's reader."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from nilearn.interfaces.fmriprep import load_confounds as nilearn_load_confounds

import chunkglm as cg
from chunkglm.errors import DesignError

T = 60
NAME = "sub-01_task-rest_run-1_desc-confounds_timeseries"
BOLD = "sub-01_task-rest_run-1_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
MOTION = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]


def make_table(seed: int = 0, bad: tuple[int, ...] = (17, 18, 40)) -> pd.DataFrame:
    """Columns, names and missing values as fMRIPrep 23 writes them."""
    rng = np.random.default_rng(seed)
    table = {}
    for name, level in (("global_signal", 700), ("csf", 900), ("white_matter", 600)):
        _expand(table, name, level + rng.standard_normal(T).cumsum())
    fd = rng.uniform(0.02, 0.3, T)
    fd[list(bad)] = rng.uniform(0.6, 2.0, len(bad))
    dvars = rng.uniform(0.8, 1.3, T)
    dvars[[29]] = 2.5
    table |= {"std_dvars": dvars, "dvars": 30 * dvars, "framewise_displacement": fd}
    for name in ("std_dvars", "dvars", "framewise_displacement"):
        table[name][0] = np.nan
    for j in range(6):
        table[f"a_comp_cor_{j:02d}"] = rng.standard_normal(T)
    for j in range(3):
        table[f"cosine{j:02d}"] = np.cos(np.pi * (j + 1) * (np.arange(T) + 0.5) / T)
    for j in range(2):
        table[f"non_steady_state_outlier{j:02d}"] = np.eye(T)[j]
    for j, volume in enumerate(bad):
        table[f"motion_outlier{j:02d}"] = np.eye(T)[volume]
    for name in MOTION:
        _expand(table, name, 0.01 * rng.standard_normal(T).cumsum())
    return pd.DataFrame(table)


def _expand(table: dict, name: str, values) -> None:
    derivative = np.concatenate([[np.nan], np.diff(values)])
    table[name] = values
    table[f"{name}_derivative1"] = derivative
    table[f"{name}_power2"] = values**2
    table[f"{name}_derivative1_power2"] = derivative**2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write the run's table beside its (empty) image and sidecar, where nilearn looks for it."""
    file = tmp_path / f"{NAME}.tsv"
    make_table().to_csv(file, sep="\t", index=False, na_rep="n/a")
    (tmp_path / f"{NAME}.json").write_text(json.dumps({}))
    (tmp_path / BOLD).touch()
    return file


def refused(*arguments, function=cg.load_confounds, **options) -> str:
    with pytest.raises(DesignError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "columns"),
    [
        ({"strategy": ["motion"], "motion": "basic"}, MOTION),
        ({"strategy": ["motion"], "motion": "full"}, ["trans_*", "rot_*"]),
        (
            {"strategy": ["high_pass", "motion", "wm_csf"], "motion": "derivatives"},
            ["cosine*", "[tr]*_[xyz]", "[tr]*_[xyz]_derivative1", "csf", "white_matter"],
        ),
        (
            {"strategy": ["wm_csf", "global_signal"], "wm_csf": "full", "global_signal": "full"},
            ["csf*", "white_matter*", "global_signal*"],
        ),
    ],
)
def test_load_confounds__equals_nilearns(path, options, columns):
    theirs, _ = nilearn_load_confounds(str(path.parent / BOLD), demean=False, **options)
    ours = cg.load_confounds(path, columns)
    assert sorted(ours) == sorted(theirs)
    # The numbers are read from the same text, so they are the same to the last bit.
    assert (ours[theirs.columns].to_numpy() == theirs.to_numpy()).all()


def test_load_confounds__names_and_patterns_in_the_order_asked_for(path):
    table = make_table()
    found = cg.load_confounds(path, ["rot_z", "trans_?", "cosine*", "rot_z", "*_x"])
    assert list(found) == [
        "rot_z", "trans_x", "trans_y", "trans_z", "cosine00", "cosine01", "cosine02", "rot_x",
    ]  # fmt: skip
    for name in found:
        np.testing.assert_array_equal(found[name], table[name])
    assert list(cg.load_confounds(table, "csf")) == ["csf"]
    brackets = table.rename(columns={"csf": "csf[1]", "dvars": "csf1"})
    assert list(cg.load_confounds(brackets, "csf[1]")) == ["csf[1]"]


@pytest.mark.parametrize(
    ("first_row", "expected"),
    [
        ("next", lambda later: later[0]),
        ("zero", lambda later: 0.0),
        ("mean", lambda later: later.mean()),
    ],
)
def test_load_confounds__the_first_row_is_filled(path, first_row, expected):
    table = make_table()
    names = ["trans_x_derivative1", "framewise_displacement", "trans_x"]
    found = cg.load_confounds(path, names, first_row=first_row)
    for name in names[:2]:
        assert found[name][0] == pytest.approx(expected(table[name].to_numpy()[1:]), rel=1e-15)
    assert found["trans_x"][0] == table["trans_x"][0]
    assert np.isnan(table["trans_x_derivative1"][0])  # the table given is not changed


def test_load_confounds__what_is_optional_may_be_missing():
    clean = make_table(bad=())
    wanted = {"columns": ["rot_x"], "optional": ["motion_outlier*", "non_steady*", "csf"]}
    assert list(cg.load_confounds(clean, **wanted)) == [
        "rot_x", "non_steady_state_outlier00", "non_steady_state_outlier01", "csf",
    ]  # fmt: skip
    assert "motion_outlier02" in cg.load_confounds(make_table(), **wanted)


def test_load_confounds__refuses_what_is_not_there(path):
    message = refused(path, ["trans_x", "trans_X"])
    assert str(path) in message
    assert "no column 'trans_X' (did you mean 'trans_x'?)" in message
    message = refused(path, ["rot_x", "framewise_displacment"])
    assert "(did you mean 'framewise_displacement'?)" in message
    assert "no columns that match 'cosines*' (did you mean 'cosine0" in refused(path, "cosines*")
    message = refused(path, "aroma_motion_*")
    assert "no columns that match 'aroma_motion_*'" in message
    assert "it has: 'global_signal', 'global_signal_derivative1'" in message
    assert "and 33 more" in message


def test_load_confounds__refuses_missing_values_elsewhere(tmp_path):
    table = make_table()
    table.loc[[5, 7], "csf"] = np.nan
    message = refused(table, "csf")
    assert "'csf' is n/a in row 5, 7 (counted from 0), and only the first may be" in message
    table["csf"] = np.nan
    assert "row 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 49 more" in refused(table, "csf")
    assert list(cg.load_confounds(table, "rot_x"))  # what is not asked for does not matter
    table["csf"] = np.inf
    assert "an infinite value in row 0" in refused(table, "csf")
    assert "one row, and it is n/a" in refused(pd.DataFrame({"a": [np.nan]}), "a")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gone.tsv", "csf"), "gone.tsv does not exist"),
        (("gone.txt", "csf"), "not a .csv or .tsv file"),
        ((["csf"], "csf"), "must be a path or a DataFrame, but got list"),
        ((pd.DataFrame(), "csf"), "0 rows and 0 columns"),
        ((make_table(), []), "no columns are asked for"),
        ((make_table(), None), "columns must be a name or pattern"),
        ((make_table(), ["csf", 3]), "columns must be a name or pattern"),
        ((make_table(), ""), "columns must be a name or pattern"),
        ((pd.DataFrame(np.ones((3, 2)), columns=["a", "a"]), "a"), "more than one column 'a'"),
        ((pd.DataFrame({"a": ["x", "y"]}), "a"), "'a' is not numeric"),
    ],
)
def test_load_confounds__refuses_arguments(arguments, words):
    assert words in refused(*arguments)


def test_load_confounds__refuses_a_file_without_names(tmp_path):
    (tmp_path / "c.tsv").write_text("1\t2\n3\t4\n")
    assert "has no header" in refused(tmp_path / "c.tsv", "a")
    assert "first_row must be" in refused(make_table(), "csf", first_row="last")


def test_load_confounds__goes_into_a_design(path):
    events = pd.DataFrame({"onset": [10.0, 50], "duration": 5.0, "trial_type": ["a", "b"]})
    confounds = cg.load_confounds(path, ["trans_*", "rot_*", "csf"])
    design = cg.design_from_events(events, n_scans=T, t_r=2.0, confounds=confounds)
    np.testing.assert_array_equal(design[list(confounds)], confounds)
    with pytest.raises(DesignError, match=r"NaN .*row 0 .*load_confounds"):
        cg.design_from_events(events, n_scans=T, t_r=2.0, confounds=path)


def test_sample_mask_from_confounds__equals_nilearns(path):
    options = {"strategy": ["motion", "scrub"], "scrub": 0}
    for max_fd, max_std_dvars in ((0.5, 1.5), (0.2, 1.1), (10.0, 10.0)):
        theirs = nilearn_load_confounds(
            str(path.parent / BOLD),
            fd_threshold=max_fd,
            std_dvars_threshold=max_std_dvars,
            **options,
        )[1]
        ours = cg.sample_mask_from_confounds(
            path, outliers="non_steady_state_outlier*", max_fd=max_fd, max_std_dvars=max_std_dvars
        )
        assert ours.tolist() == theirs.tolist()
        assert 5 < ours.size < T


def test_sample_mask_from_confounds__leaves_out_what_fmriprep_marked(path):
    kept = cg.sample_mask_from_confounds(path)
    assert sorted(set(range(T)) - set(kept.tolist())) == [0, 1, 17, 18, 40]
    assert cg.sample_mask_from_confounds(path, outliers=[]).tolist() == list(range(T))
    clean = make_table(bad=()).drop(columns=[f"non_steady_state_outlier0{j}" for j in (0, 1)])
    assert cg.sample_mask_from_confounds(clean).size == T


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"outliers": "motion_outlier99"}, "no column 'motion_outlier99'"),
        ({"max_fd": 0}, "limit of framewise_displacement must be a positive number, but got 0"),
        ({"max_std_dvars": "1"}, "limit of std_dvars must be a positive number"),
        ({"max_fd": 1e-9, "outliers": ["*0*"]}, "all 60 volumes are outliers"),
    ],
)
def test_sample_mask_from_confounds__refuses(options, words):
    table = make_table()
    table["x0"] = np.eye(T)[0]
    message = refused(table, function=cg.sample_mask_from_confounds, **options)
    assert words in message


def test_sample_mask_from_confounds__needs_the_column_of_a_limit():
    table = make_table().drop(columns="framewise_displacement")
    message = refused(table, function=cg.sample_mask_from_confounds, max_fd=0.5)
    assert "no column 'framewise_displacement'" in message
    table = make_table()
    table.loc[9, "framewise_displacement"] = np.nan
    message = refused(table, function=cg.sample_mask_from_confounds, max_fd=0.5)
    assert "n/a in row 9" in message
