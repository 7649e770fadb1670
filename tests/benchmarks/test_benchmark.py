"""The benchmark's own code: rows on tiny data, what is refused, what is made of its JSON."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import chunkglm as cg
from chunkglm.datasets import FiacData

ROOT = Path(cg.__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="benchmarks are not installed, only in the sources"
)

TINY = (12, 14, 11, 30)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def fiac(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `simulate_fiac` leaves it, with far fewer voxels."""
    folder = tmp_path_factory.mktemp("fiac")
    base = folder / "nipy-data-0.2" / "data" / "fiac" / "fiac0"
    base.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = ["DStSSp", "DStDSp", "SStSSp", "SStDSp", "constant"]
    for i in (1, 2):
        noise = rng.standard_normal((8, 9, 7, 40))
        data = (1000 + 20 * noise).astype(np.int16)
        nib.save(nib.Nifti1Image(data, np.diag([3.0, 3, 3, 1])), base / f"run{i}.nii.gz")
        design = np.c_[rng.standard_normal((40, 4)), np.ones(40)]
        np.savez(base / f"run{i}_design.npz", X=design, conditions=np.array(names))
    mask = np.zeros((8, 9, 7), np.uint8)
    mask[1:-1, 1:-1, 1:-1] = 1
    nib.save(nib.Nifti1Image(mask, np.diag([3.0, 3, 3, 1])), base / "mask.nii.gz")
    return folder


def names_of(rows: Iterator[Any]) -> list[str]:
    """Names of rows, each of which must be fit to be printed."""
    found = []
    for row in rows:
        assert str(row)
        assert row.right > 0
        found.append(row.name)
    return found


def test_kernel_rows__on_few_voxels() -> None:
    from benchmarks.kernels import kernel_rows

    assert names_of(kernel_rows(1, (60, 5, 300))) == ["kernel", "kernel-pz", "kernel-ar3"]


def test_two_run_rows__on_few_voxels(fiac: Path, tmp_path: Path) -> None:
    from benchmarks import two_runs

    found = names_of(two_runs.warm_rows(fiac, tmp_path, 1))
    assert found == ["two-runs", "two-runs-floor"]
    found = names_of(two_runs.contrast_rows(fiac, tmp_path, 1))
    assert found == ["new-contrast", "twenty-contrasts"]
    assert names_of(two_runs.leave_one_out_row(fiac, tmp_path, 1, 3)) == ["leave-one-out"]


def test_drop_in_rows__are_of_the_script_as_it_is(
    fiac: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import jobs, two_runs
    from benchmarks.rows import Alone, NotTheSameError

    # Of the few voxels here nothing is simulated; the other processes are not started.
    runs, designs, mask = jobs.fiac_files(fiac)
    data = FiacData((runs[0], runs[1]), (designs[0], designs[1]), mask, None)
    monkeypatch.setattr(cg, "simulate_fiac", lambda folder: data, raising=False)
    asked: list[Any] = []

    def alone(**job: Any) -> Any:
        asked.append(job)
        return Alone(1.0, 250.0 if "--nilearn" in job["given"] else 100.0, {})

    monkeypatch.setattr(two_runs, "alone_or_raise", alone)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    rows = list(two_runs.drop_in_rows(fiac, scratch, 1))
    assert [row.name for row in rows] == ["drop-in", "drop-in-memory"]
    assert rows[1].ratio == 0.4
    assert [job["job"] for job in asked] == ["script"] * 6
    assert not any("--no-plots" in job["given"] for job in asked)
    # What the script wrote is looked at.
    written = scratch / "script-drop-in" / "fixed_t.nii"
    image = nib.load(written)
    nib.save(nib.Nifti1Image(1.01 * image.get_fdata(), image.affine), written)
    with pytest.raises(NotTheSameError, match="fixed_t"):
        two_runs._check_written(scratch)


def test_whole_rows__are_of_fresh_processes(fiac: Path, tmp_path: Path) -> None:
    from benchmarks import two_runs

    rows = list(two_runs.whole_rows(fiac, tmp_path, 1))
    assert [row.name for row in rows] == ["whole", "whole-memory"]
    # Without nilearn's imports.
    assert rows[1].right < rows[1].left
    assert (tmp_path / "maps" / "chunkglm_stat-t_statmap.nii.gz").exists()
    assert (tmp_path / "maps" / "nilearn_t.nii.gz").exists()


def test_rows_of_runs__on_few_voxels(tmp_path: Path) -> None:
    from benchmarks import runs

    folder, scratch = tmp_path / "data", tmp_path / "scratch"
    scratch.mkdir()
    found = names_of(runs.medium_rows(folder, scratch, 1, TINY))
    assert [name for name in found if name != "compression"] == ["convert", "small-mask"]
    long = (*TINY[:3], 60)
    rows = list(runs.long_rows(folder, scratch, 1, long, TINY[3]))
    assert [row.name for row in rows if row.reached] == [row.name for row in rows]
    large = (*TINY[:3], 40)
    names = names_of(runs.large_rows(folder, scratch, 1, large, 5))
    assert names == ["large-memory", "large-floor", "large", "large-memory-share"]


def test_large_row__tells_of_a_nilearn_that_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import runs

    monkeypatch.setattr(runs, "MOST_OF_MEMORY", 1e-6)
    rows = list(runs.large_rows(tmp_path, tmp_path, 1, (*TINY[:3], 40), 5))
    assert rows[-1].left is None
    assert "stopped at" in rows[-1].note


def test_rows__are_refused_where_the_numbers_differ(
    fiac: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import two_runs
    from benchmarks.rows import NotTheSameError

    ours = two_runs.chunkglm_job
    monkeypatch.setattr(two_runs, "chunkglm_job", lambda *files: 1.01 * ours(*files))
    with pytest.raises(NotTheSameError, match="two runs"):
        list(two_runs.warm_rows(fiac, tmp_path, 1))


def test_afni_commands__name_every_column_and_the_contrast(tmp_path: Path) -> None:
    from benchmarks.afni import deconvolve_command, reml_command

    files = (Path("run.nii.gz"), Path("mask.nii.gz"), Path("design.1D"))
    names = ["DStSSp", "DStDSp", "SStSSp", "SStDSp", "r4"]
    command = deconvolve_command(*files, names, tmp_path, stop=False)
    assert command[command.index("-num_stimts") + 1] == "5"
    assert [a for a in command if a.startswith("design.1D[")] == [
        f"design.1D[{i}]" for i in range(5)
    ]
    assert "SYM: +1*DStSSp +1*DStDSp -1*SStSSp -1*SStDSp" in command
    assert "-x1D_stop" not in command
    assert "-x1D_stop" in deconvolve_command(*files, names, tmp_path, stop=True)
    matrix = command[command.index("-x1D") + 1]
    assert reml_command(*files[:2], tmp_path)[1:3] == ["-matrix", matrix]


@pytest.fixture
def printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> dict[str, str]:
    """What the scripts of studies print, theirs to the letter, of seconds made up here."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # one of them sets these where it is imported
    import benchmark_study
    import scaling

    for folder, n_runs in ((tmp_path, 120), (tmp_path / "usual", 16)):
        folder.mkdir(exist_ok=True)
        files = "\n01,bold.nii.gz,events.tsv,mask.nii.gz" * n_runs
        (folder / "runs.csv").write_text(f"subject,bold,events,mask{files}\n")
    # Pairs of 8 and 4, 9 and 6 seconds of 16 runs, thrice; ten times as many seconds of 120.
    pairs = iter([80, 40, 90, 60, *[8, 4, 9, 6] * 3])
    monkeypatch.setattr(scaling, "local_cluster", nullcontext)
    monkeypatch.setattr(scaling, "warm_up", lambda *_: None)
    monkeypatch.setattr(scaling, "timed", lambda *_: (float(next(pairs)), 0.4))
    monkeypatch.setattr(scaling, "halves", lambda *_: (7.0, 4.0))
    given = ["--folder", str(tmp_path), "--pairs", "2"]
    monkeypatch.setattr(sys, "argv", ["scaling.py", *given, "--time-only"])
    scaling.main()
    found = {"scaling.py": capsys.readouterr().out}
    monkeypatch.setattr(benchmark_study, "nilearn_side", lambda *_: (33.1, 901.0))
    monkeypatch.setattr(benchmark_study, "chunkglm_side", lambda *_: (4.9, 280.0))
    monkeypatch.setattr(benchmark_study, "refuse_unless_same", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["benchmark_study.py", *given])
    benchmark_study.main()
    return {**found, "benchmark_study.py": capsys.readouterr().out}


def test_study_rows__are_read_from_what_the_scripts_print(
    printed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import studies

    asked: list[tuple[str, ...]] = []

    def stand_in(script: str, *arguments: str) -> str:
        asked.append((script, *arguments))
        return printed[script]

    monkeypatch.setattr(studies, "_printed", stand_in)
    study, memory, usual, small = studies.study_rows(tmp_path, tmp_path, 7)
    assert (study.name, study.left, study.right, study.ratio) == ("study", 33.1, 4.9, 6.8)
    assert (memory.left, memory.right, memory.unit, memory.reached) == (901, 280, "MB", True)
    assert (usual.name, usual.left, usual.right, usual.ratio) == ("workers", 8.5, 5, 1.75)
    assert (usual.goal, usual.reached, usual.spread) == (">= 1.8", False, "1.50-2.00")
    assert usual.work == "16 runs of 64x64x30x191 on 2 workers"
    assert (small.name, small.left, small.right) == ("workers-small", 85, 50)
    assert small.work == "120 runs of 32x32x20x120 on 2 workers"
    assert usual.beneath.startswith("without a cluster, half of the runs in each of two processes")
    assert usual.beneath.endswith(": 1.75 (1.75-1.75)")
    assert small.beneath.startswith("projection: 10,000 subjects x 4 runs")
    assert small.beneath.endswith("the longest, for they overlap")
    # Pairs beside nilearn take the longest; data are kept in the folder that was given.
    assert [line[line.index("--pairs") + 1] for line in asked] == ["3", "7"]
    assert [line[line.index("--folder") + 1] for line in asked] == [
        str(tmp_path / "study"), str(tmp_path / "scaling")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("16 runs of 64x64x30x191", "16 runs of 64x64x40x191"),
        ("16 runs of 64x64x30x191", "120 runs of 32x32x20x120"),
        ("  ratio  ", "  times  "),
        ("  2 workers  ", "  two workers  "),
        ("  1 worker   ", "1 worker   "),
        ("projection: ", "on paper: "),
        ("  without a cluster", "  with no cluster"),
    ],
)
def test_study_rows__refuse_what_is_printed_otherwise(
    printed: dict[str, str], was: str, now: str
) -> None:
    from benchmarks.studies import of_workers

    text = printed["scaling.py"]
    assert was in text
    with pytest.raises(ValueError, match="printed"):
        list(of_workers(text.replace(was, now)))


def test_row_of_workers__is_accepted_by_all_that_is_written(
    printed: dict[str, str], tmp_path: Path
) -> None:
    from benchmarks import report
    from benchmarks.studies import of_workers

    earlier = tmp_path / "found.json"
    earlier.write_text(report.as_json({"cpu": "fast"}, list(of_workers(printed["scaling.py"])), {}))
    machine, rows, extra = report.read(earlier)
    assert rows == list(of_workers(printed["scaling.py"]))
    page = report.markdown(machine, rows, extra)
    work = "16 runs of 64x64x30x191 on 2 workers"
    assert f"| {work} | 1 worker | 8.50 | 5.00 | s | 1.75 | >= 1.8 | no | 1.50-2.00 |\n" in page
    assert "\n\n```text\nprojection: 10,000 subjects" in page
    assert "beside it |  | 5.00 s of 8.50 s | 1.75× |" in report.readme_table(rows)
    assert "\n    projection: " in str(rows[1])
    assert report.fallen(rows, earlier) == []
    rows[0].ratio = 1.3
    assert [line.partition(":")[0] for line in report.fallen(rows, earlier)] == ["workers"]


def test_groups__are_all_measured_unless_it_must_be_quick() -> None:
    import benchmark

    assert benchmark.chosen(None, quick=False) == list(benchmark.GROUPS)
    assert not {"study", "long", "large"} & set(benchmark.chosen(None, quick=True))
    assert benchmark.chosen(["study"], quick=True) == ["study"]


def some_rows() -> list[Any]:
    from benchmarks.rows import faster_row, share_row

    return [
        faster_row("two-runs", "two runs", [4.0, 5.0], [0.5, 0.5], 8),
        share_row("whole-memory", "memory", [600.0], [240.0], 0.5, unit="MB"),
    ]


def test_json__is_read_back_and_shown(tmp_path: Path) -> None:
    from benchmarks import report

    path = tmp_path / "found.json"
    path.write_text(report.as_json({"cpu": "fast"}, some_rows(), {"growth": "slope 1"}))
    machine, rows, extra = report.read(path)
    assert rows == some_rows()
    page = report.markdown(machine, rows, extra)
    assert "| two runs | nilearn | 4.50 | 0.500 | s | 9.00 | >= 8 | yes | 8.00-10.00 |" in page
    assert "- cpu: fast" in page
    assert "slope 1" in page
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.update_readme(readme, rows)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| its peak memory | 600 MB | 240 MB | 0.40 |" in text
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="needs the lines"):
        report.update_readme(readme, rows)


@pytest.mark.parametrize(("change", "told"), [(0.8, []), (0.7, ["two-runs", "whole-memory"])])
def test_check__tells_what_fell_by_more_than_a_quarter(
    tmp_path: Path, change: float, told: list[str]
) -> None:
    from benchmarks import report

    baseline = tmp_path / "baseline.json"
    baseline.write_text(report.as_json({}, some_rows(), {}))
    rows = some_rows()
    rows[0].ratio *= change  # slower
    rows[1].ratio /= change  # a larger share
    assert [line.partition(":")[0] for line in report.fallen(rows, baseline)] == told


def test_committed_baseline__can_be_read_and_is_readme_s() -> None:
    from benchmarks import report

    _, rows, _ = report.read(ROOT / "benchmarks" / "baseline.json")
    assert {row.name for row in rows} >= {"kernel", "two-runs", "whole", "whole-memory"}
    text = (ROOT / "README.md").read_text()
    assert text.count(report.BEGIN) == text.count(report.END) == 1


def test_growth__prints_a_slope_for_each(tmp_path: Path) -> None:
    from benchmarks.growth import growth

    found = growth(tmp_path, (8, 9, 4, 100), 1)
    assert found.count("slope") == 5
    assert "workers (threads)" in found


def test_profile__accounts_for_all_processor_time(fiac: Path, tmp_path: Path) -> None:
    from benchmarks.profiles import profiles

    found = profiles(fiac, tmp_path)
    for part in ("decompression", "smoothing", "products", "solves", "writing", "the rest"):
        assert part in found
    assert "GFLOP/s" in found
    assert " 0.00 s of" not in found.partition("times the")[0]


def test_script__makes_pages_from_an_earlier_run(tmp_path: Path) -> None:
    from benchmarks import report

    earlier, page = tmp_path / "found.json", tmp_path / "page.md"
    earlier.write_text(report.as_json({"cpu": "fast"}, some_rows(), {}))
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "--from", str(earlier)]
    done = subprocess.run(
        [*command, "--markdown", str(page)], check=True, capture_output=True, text=True
    )
    assert "2 of 2 goals reached" in done.stdout
    assert "two runs" in page.read_text()
    assert json.loads(earlier.read_text())["machine"] == {"cpu": "fast"}
