"""Pages about studies: all subjects and failures, nothing of the machine, what changed anew."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from helpers_pages import Page

import chunkglm as cg
from chunkglm.cli import main
from chunkglm.errors import MapsError, StudyError

MOST_BYTES = 5_000_000


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_report_study__index_names_every_subject_and_every_failure(pages: Path) -> None:
    index = read(pages / "index.html")
    links = [a for a in index.addresses() if a.endswith(".html")]
    assert set(links) == {"sub-01.html", "sub-02.html", "sub-03.html"}
    assert "2 of 3" in index.text
    assert "sub-03_run-2_bold.nii.gz: cannot be read to its end" in index.text
    assert "BminusA" in index.text


def test_report_study__page_has_all_parts_where_moments_were_kept(pages: Path) -> None:
    page = read(pages / "sub-01.html")
    assert {"result", "look", "runs", "table", "design", "quality", "made", "methods"} <= page.ids()
    for words in (
        "sub-01_run-1", "B - A", "4 mm full width", "haemodynamic response 'glover'",
        "SHA-256 of 6 files that were read", "files that were written", "Temporal signal to noise",
    ):  # fmt: skip
        assert words in page.text, words
    record = json.loads((pages.parent / "records" / "sub-01.json").read_bytes())
    assert record["runs"][0]["inputs"]["bold"]["sha256"] in page.html


def test_report_study__failed_subject_has_a_page_with_its_cause(pages: Path) -> None:
    page = read(pages / "sub-03.html")
    assert "Failed" in page.text
    assert "cannot be read to its end" in page.text
    assert "sub-03_run-1" in page.text


def test_report_study__tells_nothing_of_the_machine(study: Path, pages: Path) -> None:
    files = [*pages.glob("*.html"), pages / ".pages.json"]
    assert len(files) == 5
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert str(study) not in text, path.name
        assert str(Path.home()) + "/" not in text
        assert len(text) < MOST_BYTES
        assert [a for a in Page(text).addresses() if "://" in a] == []


def test_report_study__keeps_pages_of_subjects_that_did_not_change(
    study: Path, pages: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(study / "out", out)
    times = {p.name: p.stat().st_mtime_ns for p in (out / "report").glob("sub-*.html")}
    record = out / "records" / "sub-02.json"
    record.write_text(record.read_text().replace('"seconds": ', '"seconds": 1'))
    title = f"Study {(study / 'out').name}"
    cg.report(out, title=title, progress=False)
    again = {p.name: p.stat().st_mtime_ns for p in (out / "report").glob("sub-*.html")}
    assert [name for name in times if again[name] != times[name]] == ["sub-02.html"]
    (out / "records" / "sub-01.json").unlink()
    cg.report(out, title=title, progress=False)
    assert not (out / "report" / "sub-01.html").exists()
    assert "sub-01" not in read(out / "report" / "index.html").text


def test_report_study__of_what_is_kept_by_default(study: Path, tmp_path: Path) -> None:
    """Designs are made again from inputs that are as they were; no moments, and said so."""
    out = tmp_path / "out"
    cg.run_study(study / "runs.csv", study / "model.toml", out, progress=False)
    cg.report(out, tmp_path / "pages", subjects=["sub-01"], progress=False)
    page = read(tmp_path / "pages" / "sub-01.html")
    assert {"design", "result"} <= page.ids()
    assert "save_moments = true" in page.text
    assert "the first volume of sub-01_run-1" in page.text
    index = read(tmp_path / "pages" / "index.html")
    assert "2 more subjects have results and no page yet" in index.text
    record = out / "records" / "sub-01.json"
    moved = record.read_text().replace(str(study), str(tmp_path / "gone"))
    record.write_text(moved)
    cg.report(out, tmp_path / "pages", subjects=["01"], progress=False)
    page = read(tmp_path / "pages" / "sub-01.html")
    assert "design" not in page.ids()
    assert "is not what was read" in page.text
    assert str(tmp_path) not in page.html


def test_report_study__a_damaged_map_is_told_and_the_others_go_on(
    study: Path, pages: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(study / "out", out)
    shutil.rmtree(out / "report")
    image = next((out / "sub-01").glob("*BminusA_stat-effect*.nii.gz"))
    image.write_bytes(image.read_bytes()[:200])
    cg.report(out, progress=False)
    index = read(out / "report" / "index.html")
    assert "no page can be made of its maps" in index.text
    assert "result" in read(out / "report" / "sub-02.html").ids()


def test_report_study__index_of_many_has_several_pages(
    study: Path, pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import chunkglm.reporting.study as reported

    out = tmp_path / "out"
    shutil.copytree(study / "out", out)
    monkeypatch.setattr(reported, "SUBJECTS_A_PAGE", 1)
    cg.report(out, progress=False)
    first, second = (read(out / "report" / f"index{n}.html") for n in ("", "-2"))
    assert ("sub-01.html" in first.addresses(), "sub-02.html" in first.addresses()) == (True, False)
    assert ("sub-01.html" in second.addresses(), "sub-02.html" in second.addresses()) == (
        False,
        True,
    )
    assert {"index.html", "index-2.html"} <= set(first.addresses()) & set(second.addresses())
    monkeypatch.undo()
    cg.report(out, progress=False)
    assert not (out / "report" / "index-2.html").exists()


def test_report_study__sessions_and_f_contrasts(study: Path, tmp_path: Path) -> None:
    table = pd.read_csv(study / "runs.csv", dtype=str).iloc[:2]
    table["session"] = table["run"]
    for name in ("bold", "events", "mask"):
        table[name] = [str(study / path) for path in table[name]]
    model = {
        "contrasts": {"BminusA": "B - A", "any": ["A", "B"]}, "level": "session",
        "save_runs": True, "save_moments": True,
    }  # fmt: skip
    cg.run_study(table, model, tmp_path / "out", progress=False)
    cg.report(tmp_path / "out", progress=False)
    page = read(tmp_path / "out" / "report" / "sub-01.html")
    for words in ("BminusA, session 2", "any, session 1", "F statistic", "any, row 2"):
        assert words in page.text, words
    assert [f"contrast-{i}" in page.ids() for i in range(1, 8)] == [True] * 6 + [False]


def test_report_study__refuses_what_is_no_study(study: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"nowhere: does not exist; give the folder"):
        cg.report(tmp_path / "nowhere")
    with pytest.raises(StudyError, match=r"is not the folder of a study"):
        cg.report(tmp_path)
    with pytest.raises(StudyError, match=r"has no results of sub-99; there are 01, 02, 03"):
        cg.report(study / "out", subjects=["99"])
    with pytest.raises(MapsError, match="background is for a page about maps"):
        cg.report(study / "out", background="mean.nii")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command has its own

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, ["report", *map(str, arguments)])

    return run


def test_command_report__of_a_study_and_of_what_is_none(
    command: Callable[..., Result], study: Path, tmp_path: Path
) -> None:
    done = command(study / "out", "--to", tmp_path / "pages", "--subject", "02", "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.strip() == str(tmp_path / "pages" / "index.html")
    assert (tmp_path / "pages" / "sub-02.html").exists()
    assert not (tmp_path / "pages" / "sub-01.html").exists()
    wrong = command(tmp_path)
    assert wrong.exit_code == 2
    assert len(wrong.stderr.splitlines()) == 1
    assert "is not the folder of a study" in wrong.stderr


def test_command_report__of_maps(
    command: Callable[..., Result], study: Path, tmp_path: Path
) -> None:
    maps = study / "out" / "sub-01" / "sub-01_contrast-BminusA"
    done = command(maps, "--to", tmp_path / "page.html", "--height", "3", "--cluster-threshold", 5)
    assert (done.exit_code, done.stderr) == (0, "")
    page = read(tmp_path / "page.html")
    assert "a height of z = 3" in page.text
    assert "result" in page.ids()
