"""Tables of runs: everything that is wrong is said at once, with its row."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from chunkglm.errors import StudyError
from chunkglm.study.engines import engine_of
from chunkglm.study.model import read_model
from chunkglm.study.needs import check_needs
from chunkglm.study.records import why_again
from chunkglm.study.table import by_subject, entities, read_runs


def frame(study: Path) -> pd.DataFrame:
    table = pd.read_csv(study / "runs.csv", dtype=str)
    for name in ("bold", "events", "mask"):
        table[name] = [str(study / path) for path in table[name]]
    return table


def test_read_runs__takes_paths_from_the_tables_folder(study: Path) -> None:
    rows = read_runs(study / "runs.csv")
    assert len(rows) == 8
    assert rows[0].label == "sub-01_run-1"
    assert (rows[0].row, rows[0].t_r, rows[-1].subject) == (1, 2.0, "04")
    assert all(Path(row.bold).exists() and Path(row.mask).is_absolute() for row in rows)


@pytest.mark.parametrize("form", ["frame", ".csv", ".tsv", ".parquet"])
def test_read_runs__reads_every_form(study: Path, tmp_path: Path, form: str) -> None:
    table: Any = frame(study).assign(site="here")
    if form == ".parquet":
        pytest.importorskip("pyarrow", reason="parquet needs pyarrow, which is not here")
    writers = {
        ".csv": lambda p: table.to_csv(p, index=False),
        ".tsv": lambda p: table.to_csv(p, index=False, sep="\t"),
        ".parquet": lambda p: table.to_parquet(p),
    }
    given = table
    if form != "frame":
        given = tmp_path / f"runs{form}"
        writers[form](given)
    rows = read_runs(given)
    assert [row.bold for row in rows] == list(table["bold"])
    assert rows[0].extra == {"site": "here"}
    assert [row.subject for row in rows[:3]] == ["01", "01", "02"]  # text, with its zero


def test_read_runs__tells_everything_that_is_wrong_at_once(study: Path) -> None:
    table = frame(study).assign(design="", session="")
    table.loc[0, "subject"] = "../../etc"
    table.loc[1, "bold"] = "/nowhere/bold.nii.gz"
    table.loc[2, "t_r"] = "-2"
    table.loc[3, "design"] = table.loc[3, "mask"]
    table.loc[4, "events"] = ""
    table.loc[5, "bold"] = table.loc[6, "bold"]
    table.loc[7, "session"] = "a/b"
    with pytest.raises(StudyError) as caught:
        read_runs(table)
    problems = caught.value.problems
    for row, words in (
        (1, "'../../etc' must be letters and digits"),
        (2, "/nowhere/bold.nii.gz does not exist"),
        (3, "t_r must be a positive number of seconds, but is '-2'"),
        (4, "design and events are both given"),
        (5, "design and events are both empty"),
        (7, "are those of row 6"),
        (8, "session 'a/b'"),
    ):
        assert any(p.startswith(f"row {row}: ") and words in p for p in problems), (row, problems)
    assert len(problems) == 7
    assert all(problem in str(caught.value) for problem in problems)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"bold": None}, "column 'bold' is missing"),
        ({"subject": None, "bold": None}, "column 'subject' is missing"),
        ({"events": None}, "'design' or 'events' is needed"),
    ],
)
def test_read_runs__needs_its_columns(study: Path, columns: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        read_runs(frame(study).drop(columns=list(columns)))


def test_read_runs__takes_no_slip_for_a_column_to_keep(study: Path) -> None:
    table = frame(study).assign(confound="c.tsv", Age=3)
    with pytest.raises(StudyError, match="'confound' is not known; did you mean 'confounds'") as e:
        read_runs(table)
    assert len(e.value.problems) == 1


def test_check_rows__tells_what_the_model_lacks(study: Path) -> None:
    model = read_model({"contrasts": {"a": "A"}, "level": "session", "max_fd": 0.5})
    with pytest.raises(StudyError) as caught:
        model.check_rows("table", read_runs(frame(study)))
    assert len(caught.value.problems) == 16
    assert "row 1: the model names volumes to leave out" in caught.value.problems[0]
    assert 'row 1: the level is "session", but session is empty' in caught.value.problems[1]


def test_read_runs__refuses_what_is_no_table(tmp_path: Path, study: Path) -> None:
    for name in ("runs.xlsx", "nothing.csv"):
        with pytest.raises(StudyError, match=name):
            read_runs(tmp_path / name)
    with pytest.raises(StudyError, match="holds no runs"):
        read_runs(frame(study).iloc[:0])


def test_read_runs__a_run_given_twice_is_refused(study: Path) -> None:
    table = frame(study)
    with pytest.raises(StudyError, match=r"row 9: its bold .* are those of row 1"):
        read_runs(pd.concat([table, table.iloc[:1]]))
    with pytest.raises(StudyError, match="row 2: its labels"):
        read_runs(table.assign(run="1"))


def test_ten_thousand_rows__are_checked_and_planned_in_seconds(study: Path, tmp_path: Path) -> None:
    table = frame(study)
    bold = []
    for i in range(10_000):
        bold.append(str(tmp_path / f"{i}_bold.nii.gz"))
        os.symlink(table["bold"][0], bold[-1])  # noqa: PTH211
    large = pd.DataFrame({"subject": [f"{i // 4:04d}" for i in range(10_000)], "bold": bold})
    large = large.assign(run=np.arange(10_000) % 4 + 1, t_r=2.0)
    large = large.assign(events=table["events"][0], mask=table["mask"][0])
    model = read_model(study / "model.toml")
    began = time.process_time()
    with engine_of(threads=2, memory_limit="1GB") as engine:
        subjects = by_subject(read_runs(large))
        assert all(why_again(tmp_path, s, rows, model, {}) for s, rows in subjects.items())
        check_needs(subjects, model, tmp_path, engine)
    assert time.process_time() - began < 10  # seen: 2.1 s, 225 MB in a process of its own


def test_entities__join_what_has_a_label() -> None:
    assert entities(sub="01", ses="", task="rest") == "sub-01_task-rest"
