"""Studies on this machine: the maps of the plain calls, kept, renewed and set aside rightly."""

import csv
import errno
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import chunkglm as cg
import chunkglm.study.run
from chunkglm.errors import ImageError, MemoryLimitError, StoreError, StudyError
from chunkglm.io.lock import only_writer
from chunkglm.study import jobs, needs

T_R = 2.0
HAXBY = Path(__file__).parents[3] / "shared" / "data" / "haxby"


def run(study: Path, out: Path, **options: Any) -> Any:
    options.setdefault("progress", False)
    return cg.run_study(study / "runs.csv", study / "model.toml", out, **options)


def maps_of(out: Path) -> dict[str, bytes]:
    """Every map and sidecar of a study by its path."""
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.glob("sub-*/**/*.*"))}


@pytest.fixture
def copy(study: Path, tmp_path: Path) -> Path:
    """A study that may be changed."""
    shutil.copytree(study, tmp_path / "study")
    return tmp_path / "study"


@pytest.fixture(scope="module")
def done(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done") / "out"
    report = run(study, out)
    assert (len(report.done), report.kept, report.failed, report.n_runs) == (4, (), {}, 8)
    return out


def test_run_study__equals_the_plain_calls_to_the_byte(
    study: Path, done: Path, tmp_path: Path
) -> None:
    events, mask = study / "events.tsv", study / "mask.nii.gz"
    definitions = {"BminusA": "B - A", "mean": "(A + B) / 2"}
    for subject in ("01", "04"):
        fits = []
        for i in (1, 2):
            path = study / f"sub-{subject}" / f"sub-{subject}_run-{i}_bold.nii.gz"
            bold = cg.open_run(path, t_r=T_R)
            design = cg.design_from_events(events, n_scans=bold.sizes["time"], t_r=T_R)
            fits.append(cg.fit(bold, design, mask=mask))
        # In one pass, as studies take them: the last bit may depend on how many are.
        passes = [cg.contrast(one, definitions) for one in fits]
        for name, definition in definitions.items():
            pooled = cg.fixed_effects([one.sel(contrast=name) for one in passes])
            cg.save(pooled, tmp_path / f"sub-{subject}", prefix=f"sub-{subject}_contrast-{name}")
            alone = cg.fixed_effects(fits, contrast=definition)
            for stat in ("effect_size", "effect_variance", "stat", "z_score"):
                # Rounding of one product; 9e-16 was the largest difference seen in three runs.
                np.testing.assert_allclose(pooled[stat], alone[stat], rtol=1e-12, atol=1e-12)
    plain = maps_of(tmp_path)
    found = maps_of(done)
    images = [name for name in plain if name.endswith(".nii.gz")]
    assert len(images) >= 20
    assert [name for name in images if found[name] != plain[name]] == []


def test_run_study__tells_of_every_run_and_subject(done: Path) -> None:
    with (done / "runs.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 8
    assert {row["status"] for row in rows} == {"done"}
    assert all(float(row["seconds"]) > 0 and int(row["voxels"]) == 96 for row in rows)
    description = json.loads((done / "dataset_description.json").read_text())
    assert description["GeneratedBy"][0]["Name"] == "chunkglm"
    record = json.loads((done / "records" / "sub-01.json").read_text())
    stamp = record["runs"][0]["inputs"]["bold"]
    assert (len(stamp["sha256"]), stamp["size"]) == (64, Path(stamp["path"]).stat().st_size)
    assert list((done / "logs").iterdir())


def test_run_study__brings_all_subjects_into_one_store(done: Path) -> None:
    assert cg.verify(done / "group.zarr") == []
    group = xr.open_zarr(done / "group.zarr", consolidated=False)
    assert dict(group.sizes) == {"subject": 4, "contrast": 2, "x": 8, "y": 8, "z": 6}
    one = group.sel(subject="02", contrast="BminusA").compute()
    for name, stat in (("effect_size", "effect"), ("z_score", "z")):
        path = done / "sub-02" / f"sub-02_contrast-BminusA_stat-{stat}_statmap.nii.gz"
        image = nib.load(path).get_fdata()
        inside = np.isfinite(one["effect_variance"].to_numpy())
        assert inside.any()
        assert not inside.all()
        np.testing.assert_array_equal(one[name].to_numpy()[inside], image[inside])
        assert np.isnan(one[name].to_numpy()[~inside]).all()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="files are known by /proc")
@pytest.mark.parametrize("links", [True, False])
def test_store_of_all_subjects__is_on_the_disk_before_it_is_there(
    study: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    flushed: dict[int, int] = {}
    seen: set[Path] = set()
    original, rename = os.fsync, Path.rename

    def synced(descriptor: int) -> None:
        original(descriptor)
        found = Path(f"/proc/self/fd/{descriptor}").stat()
        flushed[found.st_ino] = found.st_mtime_ns

    def renamed(self: Path, target: Path) -> Path:
        if target.name == "group.zarr":
            seen.update(path for path in self.rglob("*"))
            for path in seen:
                assert flushed[path.stat().st_ino] == path.stat().st_mtime_ns, path
        return rename(self, target)

    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no second names here")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    run(study, tmp_path / "out")
    chunks = [path for path in seen if path.name.startswith("c.")]
    assert len(chunks) == 3 * 4 * 2
    assert {path.stat().st_nlink for path in (tmp_path / "out/group.zarr").rglob("c.*")} == {
        2 if links else 1
    }
    for path in (done / "group.zarr").rglob("*"):
        mine = tmp_path / "out/group.zarr" / path.relative_to(done / "group.zarr")
        assert path.is_dir() or path.name == "zarr.json" or mine.read_bytes() == path.read_bytes()


def test_run_study__keeps_what_is_done(study: Path, done: Path) -> None:
    before = maps_of(done)
    times = {p: p.stat().st_mtime_ns for p in done.glob("sub-*/*.nii.gz")}
    report = run(study, done)
    assert (report.done, len(report.kept), report.n_runs) == ({}, 4, 0)
    assert maps_of(done) == before
    assert {p: p.stat().st_mtime_ns for p in done.glob("sub-*/*.nii.gz")} == times


def touch(folder: Path, out: Path) -> None:
    os.utime(folder / "sub-02" / "sub-02_run-1_bold.nii.gz")


def other_data(folder: Path, out: Path) -> None:
    shutil.copy(
        folder / "sub-01" / "sub-01_run-1_bold.nii.gz",
        folder / "sub-02" / "sub-02_run-1_bold.nii.gz",
    )


def other_events(folder: Path, out: Path) -> None:
    events = pd.read_csv(folder / "events.tsv", sep="\t")
    events.assign(onset=events["onset"] + 1).to_csv(folder / "events.tsv", sep="\t", index=False)


def other_model(folder: Path, out: Path) -> None:
    text = (folder / "model.toml").read_text()
    (folder / "model.toml").write_text("smoothing_fwhm = 4\n" + text)


def a_map_gone(folder: Path, out: Path) -> None:
    next((out / "sub-03").glob("*stat-z*.nii.gz")).unlink()


def a_row_less(folder: Path, out: Path) -> None:
    lines = (folder / "runs.csv").read_text().splitlines()
    (folder / "runs.csv").write_text("\n".join([lines[0], *lines[2:]]) + "\n")


def a_record_cut(folder: Path, out: Path) -> None:
    path = out / "records" / "sub-04.json"
    path.write_text(path.read_text()[:100])


@pytest.mark.parametrize(
    ("change", "again", "words"),
    [
        (touch, [], ""),
        (other_data, ["02"], "sub-02_run-1_bold.nii.gz changed"),
        (other_events, ["01", "02", "03", "04"], "events.tsv changed"),
        (other_model, ["01", "02", "03", "04"], "model changed"),
        (a_map_gone, ["03"], "is missing or altered"),
        (a_row_less, ["01"], "rows of the table changed"),
        (a_record_cut, ["04"], "not done yet"),
    ],
)
def test_run_study__does_again_what_changed_and_says_why(
    copy: Path,
    done: Path,
    tmp_path: Path,
    change: Callable[[Path, Path], None],
    again: list[str],
    words: str,
) -> None:
    out = tmp_path / "out"
    run(copy, out)
    change(copy, out)
    report = run(copy, out)
    assert list(report.done) == again
    assert all(words in why for why in report.done.values())
    assert len(report.kept) == 4 - len(again)


def test_run_study__does_all_again_when_asked(copy: Path, tmp_path: Path) -> None:
    run(copy, tmp_path / "out")
    before = maps_of(tmp_path / "out")
    report = run(copy, tmp_path / "out", resume=False)
    assert (len(report.done), report.n_runs) == (4, 8)
    assert maps_of(tmp_path / "out") == before


def test_command__sets_a_bad_subject_aside_and_mends_it(copy: Path, tmp_path: Path) -> None:
    bad = copy / "sub-03" / "sub-03_run-2_bold.nii.gz"
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    command = [sys.executable, "-m", "chunkglm", "run", copy / "runs.csv", copy / "model.toml"]
    command += [tmp_path / "out", "--quiet"]
    first = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert first.returncode == 3, first.stderr
    assert "3 subjects done" in first.stdout
    (line,) = (s for s in first.stdout.splitlines() if "sub-03" in s)
    assert str(bad) in line
    assert "Traceback" not in first.stdout + first.stderr
    assert not list((tmp_path / "out" / "sub-03").glob("*.nii.gz"))
    rows = pd.read_csv(tmp_path / "out" / "runs.tsv", sep="\t", dtype=str)
    assert list(rows["status"]) == ["done"] * 5 + ["failed"] + ["done"] * 2
    bad.write_bytes(whole)
    second = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert second.returncode == 0, second.stderr
    assert "1 subjects done (2 runs" in second.stdout
    assert "3 kept" in second.stdout


def test_run_study__stops_at_the_first_when_asked(copy: Path, tmp_path: Path) -> None:
    (copy / "sub-01" / "sub-01_run-1_bold.nii.gz").write_bytes(gzip.compress(b"no image"))
    with pytest.raises(StudyError, match="sub-01_run-1"):
        run(copy, tmp_path / "out", on_error="raise")


def test_partitions__together_equal_the_whole(study: Path, done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for i in (0, 2):
        run(study, out, partition=(i, 3))
    with pytest.raises(StudyError) as caught:
        cg.finalise(study / "runs.csv", study / "model.toml", out)
    assert caught.value.problems == ("partition 1/3 is missing", "sub-02 was not done")
    assert not (out / "runs.tsv").exists()
    run(study, out, partition=(1, 3))
    assert cg.finalise(study / "runs.csv", study / "model.toml", out) == {}
    assert maps_of(out) == maps_of(done)
    assert cg.verify(out / "group.zarr") == []
    with pytest.raises(StudyError, match="partition"):
        run(study, out, partition=(3, 3))


def test_sessions__and_subjects_both_come_out(copy: Path, tmp_path: Path) -> None:
    table = pd.read_csv(copy / "runs.csv", dtype=str)
    table = table.assign(session=table["run"].map({"1": "a", "2": "b"}))
    table.to_csv(copy / "runs.csv", index=False)
    text = (copy / "model.toml").read_text()
    (copy / "model.toml").write_text('level = "session"\nsave_runs = true\n' + text)
    run(copy, tmp_path / "out")
    folder = tmp_path / "out" / "sub-01"

    def effect(path: str) -> Any:
        return nib.load(folder / f"{path}_contrast-mean_stat-effect_statmap.nii.gz").get_fdata()

    a, b = (effect(f"ses-{s}/sub-01_ses-{s}") for s in "ab")
    np.testing.assert_allclose(effect("sub-01"), (a + b) / 2, atol=1e-12)
    assert not np.allclose(a, b)
    np.testing.assert_array_equal(effect("runs/sub-01_ses-a_run-1"), a)


def test_missing__skips_runs_without_a_condition(copy: Path, tmp_path: Path) -> None:
    events = pd.read_csv(copy / "events.tsv", sep="\t")
    events[events["trial_type"] == "A"].to_csv(copy / "only-a.tsv", sep="\t", index=False)
    table = pd.read_csv(copy / "runs.csv", dtype=str)
    table.loc[1, "events"] = "only-a.tsv"
    table.to_csv(copy / "runs.csv", index=False)
    report = run(copy, tmp_path / "strict")
    assert list(report.failed) == ["01"]
    assert "sub-01_run-2" in report.failed["01"]
    assert "'B'" in report.failed["01"]
    text = (copy / "model.toml").read_text()
    (copy / "model.toml").write_text('missing = "skip"\n' + text)
    report = run(copy, tmp_path / "lenient")
    assert report.failed == {}
    rows = pd.read_csv(tmp_path / "lenient" / "runs.tsv", sep="\t", dtype=str)
    assert "BminusA" in rows["skipped"][1]
    record = cg.open_maps(tmp_path / "lenient" / "sub-01", prefix="sub-01_contrast-BminusA")
    assert len(cg.contributions(record)) == 1


def test_save_moments__gives_other_contrasts_later(copy: Path, tmp_path: Path) -> None:
    text = (copy / "model.toml").read_text()
    (copy / "model.toml").write_text("save_moments = true\n" + text)
    run(copy, tmp_path / "out")
    fit = cg.open_fit(tmp_path / "out" / "moments" / "sub-01_run-1.zarr")
    assert np.isfinite(cg.contrast(fit, "A")["stat"].compute()).any()


def test_verify_study__names_what_was_altered(copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(copy, out)
    assert cg.verify_study(out) == []
    path = next((out / "sub-02").glob("*stat-t*.nii.gz"))
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    (copy / "sub-01" / "sub-01_run-1_bold.nii.gz").write_bytes(b"other")
    wrong = cg.verify_study(out)
    assert len(wrong) == 2
    assert "sub-01_run-1_bold.nii.gz: input" in wrong[0]
    assert str(path) in wrong[1]
    with pytest.raises(StudyError, match="no records"):
        cg.verify_study(copy)


def test_run_study__of_two_at_once_the_second_is_refused(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with only_writer(out / "study"), pytest.raises(StoreError, match=f"process {os.getpid()}"):
        run(study, out)
    assert len(run(study, out).done) == 4


def test_run_study__starts_nothing_that_cannot_be_done(study: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="row 1"):
        cg.run_study(
            pd.read_csv(study / "runs.csv").assign(bold="nowhere.nii"),
            study / "model.toml",
            tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="file: the output folder cannot be made"):
        run(study, tmp_path / "file")
    with pytest.raises(StudyError, match="on_error"):
        run(study, tmp_path / "out", on_error="ignore")


def test_run_study__leaves_nothing_that_is_no_result_any_more(copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(copy, out)
    assert cg.verify_study(out) == []
    text = (copy / "model.toml").read_text()
    (copy / "model.toml").write_text(text.replace("mean =", "average ="))
    (copy / "sub-03" / "sub-03_run-2_bold.nii.gz").write_bytes(b"broken")
    report = run(copy, out)
    assert list(report.failed) == ["03"]
    assert not list(out.glob("sub-03/*.*"))
    assert not list(out.glob("*/*contrast-mean*"))
    assert len(list(out.glob("sub-01/*contrast-average*statmap.nii.gz"))) >= 5
    group = xr.open_zarr(out / "group.zarr", consolidated=False)
    assert list(group["subject"].to_numpy()) == ["01", "02", "04"]
    assert list(group["contrast"].to_numpy()) == ["BminusA", "average"]


def test_run_study__renews_a_group_store_that_a_killed_driver_left_old(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(copy, out)
    other_data(copy, out)
    with monkeypatch.context() as patch:
        patch.setattr(chunkglm.study.run, "finalise", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(copy, out)
    assert run(copy, out).done == {}
    group = xr.open_zarr(out / "group.zarr", consolidated=False).sel(contrast="mean")
    image = nib.load(out / "sub-02" / "sub-02_contrast-mean_stat-z_statmap.nii.gz").get_fdata()
    found = group["z_score"].sel(subject="02").to_numpy()
    assert np.isfinite(found).any()
    np.testing.assert_array_equal(found[np.isfinite(found)], image[np.isfinite(found)])


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_finalise__refuses_results_of_another_model(copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(copy, out)
    other_model(copy, out)
    with pytest.raises(StudyError, match=r"sub-01 was not done again since \(model changed\)"):
        cg.finalise(copy / "runs.csv", copy / "model.toml", out)


def test_run_study__stops_when_the_disk_is_full(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    plain = jobs.save

    def full(maps: Any, folder: Path, *, prefix: str) -> Any:
        if "sub-02" in prefix:
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError as error:
                raise ImageError("sub-02: cannot be written, the disk is full") from error
        return plain(maps, folder, prefix=prefix)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "save", full)
        with pytest.raises(StudyError, match="a disk is full"):
            run(copy, out, threads=1)
    assert not (out / "records" / "sub-02.json").exists()
    report = run(copy, out)
    assert (len(report.done) + len(report.kept), report.failed) == (4, {})
    assert report.kept


def test_run_study__is_refused_what_no_worker_or_disk_can_hold(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = r"sub-01_run-1 .*needs \d+ MB of memory on a worker of 1 threads, but one has 100 MB"
    with pytest.raises(MemoryLimitError, match=refused):
        run(study, tmp_path / "out", threads=1, memory_limit="100MB")
    assert not list(tmp_path.glob("out/sub-*"))
    usage = type(shutil.disk_usage(tmp_path))(1000, 990, 10)
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StudyError, match=r"maps of 4 subjects need .*, but only 10 B are free"):
        run(study, tmp_path / "out")


def test_run_study__tells_each_runs_own_warnings(copy: Path, tmp_path: Path) -> None:
    path = copy / "sub-02" / "sub-02_run-1_bold.nii.gz"
    path.write_bytes(path.read_bytes() + b"garbage")
    run(copy, tmp_path / "out", threads=4)
    rows = pd.read_csv(tmp_path / "out" / "runs.tsv", sep="\t", dtype=str)
    told = [isinstance(text, str) and "sub-02_run-1" in text for text in rows["warnings"]]
    assert told == [row == 2 for row in range(8)]


def test_censor__leaves_out_what_the_confounds_name(copy: Path, tmp_path: Path) -> None:
    outlier = (np.arange(60) % 20 == 7).astype(int)
    fd = np.where(np.arange(60) == 30, 2.0, 0.1)
    table = pd.DataFrame({"motion_outlier00": outlier, "framewise_displacement": fd})
    table.assign(trans_x=np.sin(np.arange(60))).to_csv(copy / "c.tsv", sep="\t", index=False)
    kept = np.flatnonzero((outlier == 0) & (fd < 1))
    (copy / "kept.txt").write_text("\n".join(map(str, kept)))
    runs, text = pd.read_csv(copy / "runs.csv", dtype=str), (copy / "model.toml").read_text()
    model = 'censor = ["motion_outlier*"]\nmax_fd = 1.0\nconfounds = ["trans_x"]\n'
    (copy / "model.toml").write_text(model + text)
    with pytest.raises(StudyError, match="row 1: the model names confounds, but the row has no"):
        run(copy, tmp_path / "out")
    runs.assign(confounds="c.tsv").to_csv(copy / "runs.csv", index=False)
    run(copy, tmp_path / "censored")
    (copy / "model.toml").write_text('confounds = ["trans_x"]\n' + text)
    runs.assign(confounds="c.tsv", sample_mask="kept.txt").to_csv(copy / "runs.csv", index=False)
    run(copy, tmp_path / "masked")
    images = [{k: v for k, v in maps_of(tmp_path / name).items() if k.endswith(".gz")}
              for name in ("censored", "masked")]  # fmt: skip
    assert images[0] == images[1]
    dof = pd.read_csv(tmp_path / "masked" / "runs.tsv", sep="\t")["dof"]
    assert (dof < len(kept)).all()


@pytest.mark.skipif(not HAXBY.is_dir(), reason="the twelve real runs are not here")
def test_haxby__as_one_subject_and_as_three_sessions(tmp_path: Path) -> None:
    folders = sorted(HAXBY.glob("run-*"))
    assert len(folders) == 12
    table = pd.DataFrame({
        "subject": "2",
        "session": [str(i // 4 + 1) for i in range(12)],
        "run": [str(i + 1) for i in range(12)],
        "bold": [str(next(f.glob("*bold.nii.gz"))) for f in folders],
        "events": [str(next(f.glob("*events.tsv"))) for f in folders],
        "mask": str(HAXBY / "mask.nii.gz"),
        "t_r": 2.5,
    })  # fmt: skip
    model = {"contrasts": {"faces": "face - house"}, "level": "session", "save_group": False}
    report = cg.run_study(table, model, tmp_path / "out", progress=False)
    assert report.failed == {}
    maps = []
    for bold, events in zip(table["bold"], table["events"], strict=True):
        one = cg.open_run(bold, t_r=2.5)
        design = cg.design_from_events(events, n_scans=one.sizes["time"], t_r=2.5)
        fit = cg.fit(one, design, mask=HAXBY / "mask.nii.gz", t_r=2.5)
        maps.append(cg.contrast(fit, "face - house").compute())
    parts = {"": maps} | {f"ses-{i + 1}": maps[4 * i : 4 * i + 4] for i in range(3)}
    for name, members in parts.items():
        prefix = "_".join(filter(None, ["sub-2", name, "contrast-faces"]))
        cg.save(cg.fixed_effects(members), tmp_path / "plain" / "sub-2" / name, prefix=prefix)
    plain, found = maps_of(tmp_path / "plain"), maps_of(tmp_path / "out")
    images = [name for name in plain if name.endswith(".nii.gz")]
    assert len(images) >= 20
    assert [name for name in images if found[name] != plain[name]] == []
