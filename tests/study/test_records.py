"""Records that a power cut left unreadable: their subjects were not done."""

from pathlib import Path

import pytest

import chunkglm as cg
from chunkglm.errors import StudyError
from chunkglm.study.records import read_record, record_path

# What files hold that were not yet on the disk when the power failed, or that something else wrote.
DAMAGE = {
    "empty": lambda whole: b"",
    "half of it": lambda whole: whole[: len(whole) // 2],
    "zeros": lambda whole: bytes(len(whole)),
    "an odd number of zeros": lambda whole: bytes(len(whole) | 1),
    "its end as zeros": lambda whole: whole[:64] + bytes(len(whole) - 64),
    "no text": lambda whole: b"\xff\xfe\xfd" + whole,
    "no record": lambda whole: b"[]",
    "a record of nothing": lambda whole: b"{}",
    "files that are none": lambda whole: b'{"status": "done", "runs": [], "files": null}',
}
CASES = list(DAMAGE)


def maps_of(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(out.glob("sub-*/*.*"))}


@pytest.fixture(scope="module")
def done(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done") / "out"
    cg.run_study(study / "runs.csv", study / "model.toml", out, progress=False)
    return out


def test_read_record__of_any_part_of_one_is_none(done: Path, tmp_path: Path) -> None:
    whole = record_path(done, "01").read_bytes().rstrip()
    assert read_record(done, "01") is not None
    path = record_path(tmp_path, "01")
    path.parent.mkdir()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert read_record(tmp_path, "01") is None, length
    path.write_bytes(whole)
    assert read_record(tmp_path, "01") == read_record(done, "01")


# Four subjects at a time, each with its own damage.
@pytest.mark.parametrize("cases", [CASES[i : i + 4] for i in range(0, len(CASES), 4)])
def test_run_study__does_again_what_has_no_readable_record(
    study: Path, done: Path, cases: list[str]
) -> None:
    table, model = study / "runs.csv", study / "model.toml"
    before, damaged = maps_of(done), {}
    for subject, case in zip(("01", "02", "03", "04"), cases, strict=False):
        path = damaged[subject] = record_path(done, subject)
        path.write_bytes(DAMAGE[case](path.read_bytes()))
    assert cg.verify_study(done) == [f"{path}: cannot be read" for path in damaged.values()]
    with pytest.raises(StudyError, match="sub-01 was not done"):
        cg.finalise(table, model, done)
    report = cg.run_study(table, model, done, progress=False)
    assert report.done == dict.fromkeys(damaged, "not done yet")
    assert (len(report.kept), report.failed) == (4 - len(damaged), {})
    assert maps_of(done) == before
    assert cg.verify_study(done) == []
