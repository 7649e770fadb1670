"""Design matrices: every format is read, every fault is named."""

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkglm.design import Design, _arrays, _text, design_from_events, load_design
from chunkglm.errors import DesignError

T = 12
NAMES = ("face", "house", "drift 1", "constant")


@pytest.fixture
def table():
    rng = np.random.default_rng(3)
    values = rng.standard_normal((T, 4))
    values[:, 3] = 1
    return pd.DataFrame(values, columns=list(NAMES))


def refused(design, **options):
    """Return the message, which must be one line."""
    with pytest.raises(DesignError) as caught:
        load_design(design, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


# What is read


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".CSV"])
@pytest.mark.parametrize("index", [None, "rows", "frame times", "rounded frame times"])
@pytest.mark.filterwarnings("ignore:.*taken as the index")
def test_load_design__text_keeps_every_bit(table, tmp_path, suffix, index):
    times = {"frame times": np.arange(T) * 0.72 + 0.36}
    times["rounded frame times"] = np.round(np.arange(T) * (1 / 3), 3)
    if index in times:
        table.index = pd.Index(times[index])
    path = tmp_path / f"design{suffix}"
    table.to_csv(path, sep="\t" if suffix == ".tsv" else ",", index=index is not None)
    design = load_design(path, n_scans=T)
    assert design.values.tolist() == table.to_numpy().tolist()
    assert design.names == NAMES
    assert design.source == str(path)


def test_load_design__refuses_an_unnamed_column_that_is_no_index(table, tmp_path):
    table.index = pd.Index(np.arange(T)[::-1] ** 2)
    table.to_csv(tmp_path / "design.csv")
    assert "column 0 (counted from 0) has no name" in refused(tmp_path / "design.csv")


@pytest.mark.filterwarnings("ignore:.*taken as the index")
def test_load_design__drops_the_index_pandas_read_and_wrote_again(table, tmp_path):
    path = tmp_path / "design.csv"
    table.to_csv(path)
    pd.read_csv(path).to_csv(path, index=False)
    assert path.read_text().startswith("Unnamed: 0,")
    assert load_design(path).names == NAMES


def test_load_design__text_without_a_header(table, tmp_path):
    path = tmp_path / "design.tsv"
    table.to_csv(path, sep="\t", index=False, header=False)
    design = load_design(str(path), n_scans=T)
    assert design.values.tolist() == table.to_numpy().tolist()
    assert design.names == ("regressor_0", "regressor_1", "regressor_2", "regressor_3")
    assert "first line holds only numbers" in refused(path, n_scans=T - 1)


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n3,5\n0,1\n",
        "\ufeffa,b\r\n1,2\r\n3,5\r\n0,1\r\n",
        ' a , "b" \n 1, 2\n3 ,5.0\n\n0e0,+1\n\n'.replace('"b"', "b"),
        '"a","b"\n"1","2"\n3,5\n0,1',
        "a,b\r1,2\r3,5\r0,1",
    ],
)
def test_load_design__text_in_every_dress(tmp_path, text):
    design = load_design(write(tmp_path / "d.csv", text))
    assert design.values.tolist() == [[1, 2], [3, 5], [0, 1]]
    assert design.names == ("a", "b")


@pytest.mark.parametrize(
    "name",
    ["two words.csv", "größe 顔.csv", "run[1]*?.csv", "a#b.csv", "a::b.csv", "100%.csv", "~x.csv"],
)
def test_load_design__any_path(table, tmp_path, name):
    table.to_csv(tmp_path / name, index=False)
    design = load_design(tmp_path / name)
    assert design.values.tolist() == table.to_numpy().tolist()
    assert name in refused(tmp_path / name, n_scans=T + 1)


@pytest.mark.parametrize("key", ["names", "columns", "conditions"])
@pytest.mark.parametrize("dtype", ["U", "S"])
@pytest.mark.parametrize("n_names", [4, 2])
def test_load_design__npz_with_names_of_all_or_the_first_columns(
    table, tmp_path, key, dtype, n_names
):
    path = tmp_path / "run1_design.npz"
    np.savez(path, X=table.to_numpy(), **{key: np.array(NAMES[:n_names], dtype=dtype)})
    design = load_design(path, n_scans=T)
    assert design.values.tolist() == table.to_numpy().tolist()
    assert design.names == (*NAMES[:n_names], *("regressor_2", "regressor_3")[: 4 - n_names])


def test_load_design__npz_prefers_the_names_of_all_columns(table, tmp_path):
    np.savez(
        tmp_path / "d.npz",
        X=table.to_numpy(),
        conditions=np.array(["x", "y"]),
        columns=np.array(NAMES),
        names=np.arange(4),
    )
    assert load_design(tmp_path / "d.npz").names == NAMES


def test_load_design__npz_without_names_and_npy(table, tmp_path):
    np.savez_compressed(tmp_path / "d.npz", X=table.to_numpy(dtype=">f8", copy=True))
    np.save(tmp_path / "d.npy", np.asfortranarray(table.to_numpy()))
    for name in ("d.npz", "d.npy"):
        design = load_design(tmp_path / name, n_scans=T)
        assert design.values.tolist() == table.to_numpy().tolist()
        assert design.names == tuple(f"regressor_{j}" for j in range(4))
        assert design.values.dtype == np.float64
        assert design.values.flags.c_contiguous


@pytest.mark.parametrize("dtype", ["?", "i1", "u4", "i8", "f2", "f4", ">f4", "g"])
def test_load_design__array_of_any_real_type(dtype):
    values = np.zeros((6, 2), dtype=dtype)
    values[::2, 0] = 1
    values[:, 1] = 1
    design = load_design(values)
    assert design.values.tolist() == [[1, 1], [0, 1]] * 3
    assert design.names == ("regressor_0", "regressor_1")
    assert design.source == "array"


def test_load_design__data_frame_of_mixed_types():
    table = pd.DataFrame(
        {
            " task ": [True, False, True, False, True],
            7: pd.array([1, 2, 3, 4, 9], dtype="Int64"),
            "object": np.array([1, 2.5, True, np.float32(0.5), "4"], dtype=object),
        },
        index=list("abcde"),
    )
    design = load_design(table, n_scans=5)
    assert design.values.tolist() == [[1, 1, 1], [0, 2, 2.5], [1, 3, 1], [0, 4, 0.5], [1, 9, 4]]
    assert design.names == ("task", "7", "object")
    assert design.source == "DataFrame"


def test_load_design__passes_a_design_on_and_counts_its_rows(table):
    design = load_design(table)
    assert load_design(design, n_scans=T) is design
    assert (design.n_scans, design.n_regressors) == (T, 4)
    assert "DataFrame has 12 rows but the run has 13 volumes" in refused(design, n_scans=13)


def test_design__is_a_read_only_copy_with_a_short_repr(table):
    values = table.to_numpy(copy=True)
    design = Design(values, list(NAMES), "array")
    values[0, 0] = 99
    assert design.values.tolist() == table.to_numpy().tolist()
    assert repr(design) == (
        "Design(12 scans x 4 regressors from array: 'face', 'house', 'drift 1', 'constant')"
    )
    with pytest.raises(ValueError, match="read-only"):
        design.values[0, 0] = 1
    again = pickle.loads(pickle.dumps(design))
    assert again.values.tolist() == design.values.tolist()


def test_design__refuses_names_that_do_not_fit(table):
    with pytest.raises(DesignError, match="has 4 columns, but 2 names"):
        Design(table.to_numpy(), ("a", "b"), "array")


EVENTS = pd.DataFrame({"onset": [4.0, 30], "duration": [5, 5], "trial_type": ["face", "house"]})


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_load_design__events_become_a_design(tmp_path):
    EVENTS.to_csv(tmp_path / "events.tsv", sep="\t", index=False)
    expected = design_from_events(EVENTS, n_scans=40, t_r=2.0)
    for events in (EVENTS, tmp_path / "events.tsv"):
        design = load_design(events, n_scans=40, t_r=2)
        assert design.values.tolist() == expected.to_numpy().tolist()
        assert design.names == tuple(expected.columns)
    assert "t_r is missing" in refused(EVENTS, n_scans=40)
    assert "events.tsv is a table of events" in refused(tmp_path / "events.tsv", t_r=2)
    assert "n_scans is missing" in refused(EVENTS, t_r=2)


# What is refused


@pytest.mark.parametrize("t_r", [0, -2.0, np.nan, np.inf, "2", True])
def test_load_design__refuses_repetition_times(table, t_r):
    assert f"positive number of seconds, but got {t_r!r}" in refused(table, t_r=t_r)


@pytest.mark.parametrize("n_scans", [0, -3, 2.5, np.nan, "12", True])
def test_load_design__refuses_numbers_of_volumes(table, n_scans):
    assert f"positive whole number, but got {n_scans!r}" in refused(table, n_scans=n_scans)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.assign(face=[1.0, np.nan, *[0.5] * 10]), ["'face' has NaN", "row 1 "]),
        (lambda d: d.assign(house=[*[1.5] * 11, -np.inf]), ["'house' has an infinite", "row 11 "]),
        (lambda d: d.assign(face=0.0), ["'face' is zero in all 12 rows"]),
        (lambda d: d.assign(face=["a"] * 12), ["'face' is not numeric", "'a' in row 0 "]),
        (
            lambda d: d.assign(face=[1, 2, [3], *range(9)]),
            ["'face' is not numeric", "'[3]' in row 2"],
        ),
        (lambda d: d.assign(face=[1, None, 2, *range(9)]), ["'face' has NaN", "row 1 "]),
        (lambda d: d.assign(face=pd.array([1, None] * 6, "Int8")), ["'face' has NaN", "row 1 "]),
        (lambda d: d.assign(face=[1, 10**400, *range(10)]), ["'face' is not numeric", "row 1 "]),
        (lambda d: d.assign(face=1j), ["'face' is complex"]),
        (lambda d: d.assign(face=pd.to_datetime("2020-01-01")), ["'face' is not numeric"]),
        (lambda d: d.set_axis(["a", "b ", "b", "a"], axis=1), ["more than one column", "'a', 'b'"]),
        (lambda d: d.iloc[:, :0], ["12 rows and 0 columns"]),
        (lambda d: d.iloc[:0], ["0 rows and 4 columns"]),
        (lambda d: d.iloc[:4], ["4 columns for 4 rows"]),
        (lambda d: d.T, ["12 columns for 4 rows", "transpose"]),
        (lambda d: d["face"], ["but got Series"]),
        (lambda d: d.to_numpy().tolist(), ["but got list"]),
        (lambda d: None, ["but got NoneType"]),
        (lambda d: d.to_numpy()[:, 0], ["shape (12,)", "reshape(-1, 1)"]),
        (lambda d: d.to_numpy()[None], ["shape (1, 12, 4)"]),
        (lambda d: d.to_numpy() + 0j, ["is complex (dtype complex128)"]),
        (lambda d: d.to_numpy().astype(str), ["not real numbers"]),
        (lambda d: d.to_numpy().astype(object), ["not real numbers (dtype object)"]),
        (lambda d: np.ma.masked_less(d.to_numpy(), 0), ["masked values"]),
        (lambda d: np.full((12, 2), np.inf), ["'regressor_0' has an infinite value"]),
        (lambda d: np.zeros((0, 2)), ["0 rows and 2 columns"]),
    ],
)
def test_load_design__refuses_tables_and_arrays(table, change, words):
    message = refused(change(table))
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty"]),
        (" \n\n", ["is empty"]),
        ("a,b\n", ["has a header but no rows"]),
        ("a,b\n1,2\n3\n", ["ragged", "line 3 has 1 cells", "line 1 has 2"]),
        ("a,b\n1,2,3\n", ["ragged", "line 2 has 3 cells"]),
        ("a,b\n1,2\n3,x\n5,y\n", ["'b' is not numeric", "'x' in row 1 "]),
        ("a,b\n1,2\n3,1_000\n", ["'b' is not numeric", "'1_000' in row 1 "]),
        ("a,b\n1,2\n3,\n5,6\n", ["'b' has NaN", "row 1 "]),
        ("a,b\n1,n/a\n3,2\n5,6\n", ["'b' has NaN", "row 0 "]),
        ("a,b\n1,2\n3,inf\n5,6\n", ["'b' has an infinite value", "row 1 "]),
        ("a,b\n1,0\n3,0\n5,0\n", ["'b' is zero"]),
        ("a,a\n1,2\n3,4\n5,6\n", ["more than one column named 'a'"]),
        ("a,b,c\n1,2,3\n2,1,4\n", ["3 columns for 2 rows"]),
        ("a;b\n1;2\n3;4\n", ["split by semicolons", "with commas"]),
        ("a;b\n1,5;2,5\n3,0;4,0\n", ["split by semicolons"]),
        ("a\tb\n1\t2\n3\t4\n", ["split by tabs"]),
        ("a b\n1 2\n3 4\n", ["split by spaces"]),
        ('a,b\n"1,2\n3,4\n', ["line 3", "cannot be read"]),
        ("a,b\n1,\x002\n", ["binary"]),
        (",x\n0,a\n1,b\n", ["'x' is not numeric"]),
    ],
)
def test_load_design__refuses_text(tmp_path, text, words):
    path = write(tmp_path / "design.csv", text)
    message = refused(path)
    assert [word for word in [str(path), *words] if word not in message] == []


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_load_design__refuses_other_encodings(tmp_path, encoding):
    path = write(tmp_path / "design.csv", "größe,b\n1,2\n3,4\n4,4\n", encoding)
    assert "not text in UTF-8" in refused(path)


@pytest.mark.filterwarnings("ignore:.*taken as the index")
def test_load_design__refuses_a_wrong_number_of_rows(table, tmp_path):
    table.to_csv(tmp_path / "design.csv")
    message = refused(tmp_path / "design.csv", n_scans=13)
    assert "design.csv has 12 rows but the run has 13 volumes; " in message
    assert "first line" not in message


@pytest.mark.parametrize("name", ["d.csv", "d.tsv", "d.npz", "d.npy"])
def test_load_design__refuses_what_is_no_file(tmp_path, name):
    assert f"{tmp_path / name} does not exist" in refused(tmp_path / name)
    (tmp_path / name).mkdir()
    assert f"{tmp_path / name} is a folder" in refused(tmp_path / name)
    assert "cannot be read" in refused("x" * 5000 + name)
    assert refused(f"a\0{name}")
    assert refused("http://localhost/" + name).endswith("does not exist; check the path")


@pytest.mark.parametrize("name", ["design.txt", "design", "design.pkl", "design.csv.gz", ""])
def test_load_design__refuses_other_suffixes(tmp_path, name):
    message = refused(str(write(tmp_path / (name or "x"), "1")) if name else "")
    assert ".csv, .tsv, .npz or .npy" in message


def test_load_design__refuses_files_too_large_for_a_table(table, tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "d.npz", X=np.zeros((2000, 5)))
    table.to_csv(tmp_path / "d.csv")
    monkeypatch.setattr(_text, "MAX_BYTES", 500)
    assert "but a table has at most 500" in refused(tmp_path / "d.csv")
    monkeypatch.setattr(_text, "MAX_BYTES", 10_000)
    monkeypatch.setattr(_arrays, "MAX_BYTES", 10_000)
    assert "'X' has 80128 bytes, but a table has at most 10000" in refused(tmp_path / "d.npz")


class Bomb:
    """An object whose unpickling leaves a file behind."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_load_design__never_unpickles(table, tmp_path):
    marker = tmp_path / "marker"
    bomb = np.array([[Bomb(marker)] * 2] * 5, dtype=object)
    np.savez(tmp_path / "matrix.npz", X=bomb)
    np.savez(tmp_path / "names.npz", X=table.to_numpy(), names=bomb[:4, 0])
    np.savez(tmp_path / "unused.npz", X=table.to_numpy(), other=bomb)
    np.save(tmp_path / "matrix.npy", bomb)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Bomb(marker)))
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Bomb(marker)))
    assert load_design(tmp_path / "unused.npz").values.tolist() == table.to_numpy().tolist()
    for name in ("matrix.npz", "names.npz", "matrix.npy"):
        assert "hidden pickle" in refused(tmp_path / name)
    for name in ("bare.npy", "bare.npz"):
        assert "not a NumPy file" in refused(tmp_path / name)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists()  # the bomb would have gone off


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"Y": np.eye(3), "Z": np.eye(3)}, ["no array 'X' but 'Y', 'Z'"]),
        ({}, ["no array 'X' but nothing"]),
        ({"X": np.arange(5.0)}, ["shape (5,)", "reshape(-1, 1)"]),
        ({"X": np.eye(3) * 1j}, ["is complex"]),
        ({"X": np.array([["1", "2"]] * 3)}, ["not real numbers"]),
        ({"X": np.zeros(3, dtype="f8,i4")}, ["shape (3,)"]),
        ({"X": np.ones((3, 1)), "names": np.array(["a", "b"])}, ["'names' names 2 columns"]),
        ({"X": np.ones((3, 2)), "names": np.array(["a", "a"])}, ["more than one column named 'a'"]),
        ({"X": np.ones((3, 1)), "names": np.array([b"\xff"])}, ["corrupt"]),
    ],
)
def test_load_design__refuses_npz(tmp_path, arrays, words):
    np.savez(tmp_path / "d.npz", **arrays)
    message = refused(tmp_path / "d.npz")
    assert [word for word in [str(tmp_path / "d.npz"), *words] if word not in message] == []


def test_load_design__refuses_an_npz_of_other_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("X", "not an array")
    assert "d.npz" in refused(tmp_path / "d.npz")


def test_load_design__refuses_a_npy_that_claims_more_than_it_has(tmp_path):
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (2147483648, 500), }".ljust(117)
    data = b"\x93NUMPY\x01\x00" + bytes([118, 0]) + header.encode() + b"\n" + bytes(80)
    (tmp_path / "d.npy").write_bytes(data)
    assert "corrupt or cut off" in refused(tmp_path / "d.npy")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["d.npz", "d.npy"]), st.data())
def test_load_design__corrupt_arrays_are_read_or_refused(tmp_path_factory, name, data):
    path = tmp_path_factory.mktemp("corrupt") / name
    values = np.arange(1.0, 25).reshape(8, 3)
    if name == "d.npz":
        np.savez(path, X=values, names=np.array(["a", "b", "c"]))
    else:
        np.save(path, values)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(content))
    try:
        design = load_design(path)
    except DesignError:
        assert str(path) in refused(path)
    else:
        # A checksum guards the arrays of an npz; an npy has none.
        assert np.isfinite(design.values).all()
        assert name == "d.npy" or design.values.tolist() == values.tolist()


def test_import__is_cheap_and_leaves_nilearn_out():
    code = (
        "import sys, chunkglm.design; "
        "print([m for m in ('nilearn', 'dask', 'xarray', 'zarr', 'scipy') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_load_design__takes_the_header_that_numpy_marks_as_a_comment(table, tmp_path):
    path = tmp_path / "design.csv"
    np.savetxt(path, table.to_numpy(), delimiter=",", header=",".join(table.columns))
    assert path.read_text().startswith("# ")
    loaded = load_design(path)
    assert list(loaded.names) == list(table.columns)
    np.testing.assert_array_equal(loaded.values, table.to_numpy())


def test_load_design__a_column_alone_may_have_a_name_of_several_words(tmp_path):
    path = write(tmp_path / "design.csv", "my one condition\n1\n2\n4\n")
    assert load_design(path).names == ("my one condition",)
