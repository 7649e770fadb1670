"""Runs found by the names that BIDS gives files."""

import json
import time
from pathlib import Path

import pytest

import chunkglm as cg
from chunkglm.errors import StudyError

# Seconds for 26,000 files; 0.5 seen on two idle cores.
FAST_ENOUGH = 3.0


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def make_tree(top: Path, subjects: list[str], sessions: list[str], runs: int) -> Path:
    write(top / "dataset_description.json", "{}")
    write(top / "task-faces_bold.json", json.dumps({"RepetitionTime": 2.0}))
    out = top / "derivatives" / "fmriprep"
    write(out / "dataset_description.json", "{}")
    for subject in subjects:
        for session in sessions:
            inside = Path(f"sub-{subject}", *([f"ses-{session}"] if session else []), "func")
            entities = f"sub-{subject}" + (f"_ses-{session}" if session else "")
            for run in range(1, runs + 1):
                stem = f"{entities}_task-faces_run-{run}"
                write(top / inside / f"{stem}_events.tsv")
                write(out / inside / f"{stem}_desc-confounds_timeseries.tsv")
                for space in ("MNI", "T1w"):
                    write(out / inside / f"{stem}_space-{space}_desc-preproc_bold.nii.gz")
                    write(out / inside / f"{stem}_space-{space}_desc-brain_mask.nii.gz")
                    write(out / inside / f"{stem}_space-{space}_desc-preproc_bold.json", "{}")
                    write(out / inside / f"{stem}_space-{space}_boldref.nii.gz")
    return out


def test_find_runs__brings_together_the_files_of_each_run(tmp_path: Path) -> None:
    out = make_tree(tmp_path, ["01", "02"], [""], 2)
    found = cg.find_runs(out, task="faces", space="MNI")
    assert list(found["subject"]) == ["01", "01", "02", "02"]
    assert list(found["run"]) == ["1", "2", "1", "2"]
    first = found.iloc[0]
    stem = "sub-01_task-faces_run-1"
    assert first["bold"].endswith(f"sub-01/func/{stem}_space-MNI_desc-preproc_bold.nii.gz")
    assert first["mask"].endswith(f"{stem}_space-MNI_desc-brain_mask.nii.gz")
    assert first["confounds"].endswith(f"{stem}_desc-confounds_timeseries.tsv")
    assert first["events"] == str(tmp_path / "sub-01" / "func" / f"{stem}_events.tsv")
    assert set(found["t_r"]) == {2.0}
    assert len(cg.find_runs(out, task="faces")) == 8


def test_find_runs__the_nearest_sidecar_wins(tmp_path: Path) -> None:
    out = make_tree(tmp_path, ["01", "02"], ["a", "b"], 1)
    write(tmp_path / "sub-01" / "sub-01_task-faces_bold.json", json.dumps({"RepetitionTime": 1.5}))
    write(
        out / "sub-02" / "ses-b" / "func" / "sub-02_ses-b_task-faces_run-1_bold.json",
        json.dumps({"RepetitionTime": 0.8}),
    )
    found = cg.find_runs(out, space="T1w").set_index(["subject", "session"])["t_r"]
    assert found.to_dict() == {
        ("01", "a"): 1.5, ("01", "b"): 1.5, ("02", "a"): 2.0, ("02", "b"): 0.8,
    }  # fmt: skip


def test_find_runs__says_what_there_is(tmp_path: Path) -> None:
    out = make_tree(tmp_path, ["01"], [""], 1)
    with pytest.raises(StudyError, match=r"tasks \['faces'\] and spaces \['MNI', 'T1w'\]"):
        cg.find_runs(out, task="rest")
    with pytest.raises(StudyError, match="is not a folder"):
        cg.find_runs(tmp_path / "nowhere")
    write(tmp_path / "task-faces_bold.json", "{")
    with pytest.raises(StudyError, match=r"task-faces_bold\.json"):
        cg.find_runs(out)


def test_find_runs__thousands_of_files_in_seconds(tmp_path: Path) -> None:
    out = make_tree(tmp_path, [f"{i:04d}" for i in range(1000)], [""], 2)
    n_files = 1000 * 2 * 13
    assert n_files == 26_000
    began = time.process_time()
    found = cg.find_runs(out, space="MNI")
    assert len(found) == 2000
    assert time.process_time() - began < FAST_ENOUGH
