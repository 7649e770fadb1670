"""An index that a file carries is no regressor; columns without names are refused."""

import numpy as np
import pandas as pd
import pytest

import chunkglm as cg
from chunkglm.errors import DesignError

T = 12
TIMES = np.arange(T) * 0.72 + 0.36


@pytest.fixture
def table():
    rng = np.random.default_rng(3)
    return pd.DataFrame(rng.standard_normal((T, 2)), columns=["face", "house"])


def refused(design):
    with pytest.raises(DesignError) as caught:
        cg.load_design(design)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("index", [np.arange(T), TIMES, np.delete(np.arange(T + 2), [3, 4])])
@pytest.mark.parametrize("name", [None, "frame_times", "frame times", "Frame_Time"])
def test_load_design__an_index_is_left_out_and_said_so(table, tmp_path, index, name):
    table.index = pd.Index(index, name=name)
    path = tmp_path / "design.csv"
    table.to_csv(path)
    for design in (path, pd.read_csv(path)):
        with pytest.warns(UserWarning, match="taken as the index, not as a regressor") as caught:
            read = cg.load_design(design, n_scans=T)
        assert read.names == ("face", "house")
        assert read.values.tolist() == table.to_numpy().tolist()
        assert len(caught) == 1
        assert (name or "column 0 has no name") in str(caught[0].message)
        assert "\n" not in str(caught[0].message)


def test_load_design__an_index_read_and_written_twice(table, tmp_path):
    path = tmp_path / "design.csv"
    for _ in range(3):
        table.to_csv(path)
        table = pd.read_csv(path)
    assert list(table)[:3] == ["Unnamed: 0.2", "Unnamed: 0.1", "Unnamed: 0"]
    with pytest.warns(UserWarning, match="no name"):
        assert cg.load_design(table).names == ("face", "house")


def test_load_design__frame_times_in_any_place(table):
    table.insert(1, "frame_times", TIMES)
    with pytest.warns(UserWarning, match="'frame_times' holds the times of the rows"):
        assert cg.load_design(table).names == ("face", "house")


def test_load_design__the_index_of_a_frame_is_not_asked(table, recwarn):
    assert cg.load_design(table.set_index(pd.Index(TIMES[::-1]))).names == ("face", "house")
    assert len(recwarn) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.rename(columns={"face": "Unnamed: 0"}), "column 0 (counted from 0) has no"),
        (lambda d: d.assign(**{"Unnamed: 2": TIMES}), "column 2 (counted from 0) has no name"),
        (lambda d: d.set_axis(["face", None], axis=1), "column 1 (counted from 0) has no name"),
        (lambda d: d.set_axis(["face", np.nan], axis=1), "column 1 (counted from 0) has no name"),
        (lambda d: d.set_axis([" ", "house"], axis=1), "column 0 (counted from 0) has no name"),
        (lambda d: d.assign(frame_times=TIMES[::-1]), "'frame_times' does not increase"),
        (lambda d: d.assign(frame_times="a"), "'frame_times' does not increase"),
        (lambda d: pd.DataFrame({"frame_times": TIMES}), "no regressors but only 'frame_times'"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*taken as the index")
def test_load_design__refuses_columns_without_a_name(table, change, words):
    assert words in refused(change(table))


def test_design__refuses_an_empty_name(table):
    with pytest.raises(DesignError, match=r"column 1 \(counted from 0\) has no name"):
        cg.design.Design(table.to_numpy(), ("face", " "), "array")


def test_load_design__trailing_delimiters_make_a_column_without_a_name(table, tmp_path):
    path = tmp_path / "design.csv"
    table.to_csv(path, index=False)
    path.write_text("".join(f"{line},\n" for line in path.read_text().splitlines()))
    assert "column 2 (counted from 0) has no name" in refused(path)


def test_load_design__row_numbers_of_a_file_without_a_header(table, tmp_path, recwarn):
    path = tmp_path / "design.tsv"
    table.to_csv(path, sep="\t", header=False)
    design = cg.load_design(path, n_scans=T)
    assert design.values.tolist() == table.to_numpy().tolist()
    assert design.names == ("regressor_0", "regressor_1")
    assert "its first column counts the rows" in str(recwarn.pop(UserWarning).message)
    # Even steps may be a drift as well as times: kept, and said.
    table.set_index(TIMES).to_csv(path, sep="\t", header=False)
    assert cg.load_design(path, n_scans=T).values[:, 0].tolist() == TIMES.tolist()
    assert "increases by 0.72 from row to row" in str(recwarn.pop(UserWarning).message)
    table.set_index(np.linspace(-1, 1, T)).to_csv(path, sep="\t", header=False)
    assert cg.load_design(path, n_scans=T).values[0, 0] == -1
    assert len(recwarn) == 0


def test_design_from_events__confounds_with_an_index(table, tmp_path):
    path = tmp_path / "confounds.tsv"
    table.to_csv(path, sep="\t")
    events = pd.DataFrame({"onset": [2.0], "duration": [1.0], "trial_type": ["go"]})
    with pytest.warns(UserWarning, match="taken as the index"):
        made = cg.design_from_events(events, n_scans=T, t_r=2.0, confounds=path)
    assert made["face"].tolist() == table["face"].tolist()
    assert not any("Unnamed" in name for name in made)
