"""Every code block of README and of the documentation is run, in order, page by page."""

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from helpers_s3 import S3, s3_server
from make_study import make_study
from pages import ROOT, Block, Runner, all_pages, assert_printed, blocks_of

import chunkglm as cg

SHAPE, N_SCANS, T_R = (32, 32, 16), 60, 2.5
AFFINE = np.array([[-3.0, 0, 0, 45], [0, 3, 0, -45], [0, 0, 4, -30], [0, 0, 0, 1]])

# What is not run here, by the beginning of the block, and why.
SKIPPED = {
    "python scripts/benchmark.py --data": "minutes; tests/benchmarks tries the script itself",
    "pip install . && chunkglm demo": "tests/cli/test_demo.py runs it and compares what it prints",
    'git clone "$ADDRESS"': "it installs; what it ends with is README's command",
    'pip install -e ".[test]" && pytest': "this test is part of it",
}

# Set for blocks that speak of them.
IN_A_JOB = {"SLURM_ARRAY_TASK_ID": "0"}

# Files that blocks of other languages stand for.
FILES = {
    "README.md": {"csv": "example_design.csv"},
    "docs/studies.md": {"csv": "example_runs.csv", "toml": "model.toml"},
}


def write_run(path: Path, columns: tuple[str, ...], seed: int = 0) -> pd.DataFrame:
    """Write a run in which the first column is active in the middle; return its design."""
    rng = np.random.default_rng(seed)
    rows = np.arange(N_SCANS)
    design = pd.DataFrame(
        {name: np.roll((rows % 20 < 4) * 1.0, 5 * j) for j, name in enumerate(columns)}
    )
    middle = tuple(slice(n // 3, 2 * n // 3) for n in SHAPE)
    data = rng.normal(1000, 20, (*SHAPE, N_SCANS))
    data[middle] += 20 * design[columns[0]].to_numpy()
    image = nib.Nifti1Image(data.astype(np.int16), AFFINE)
    image.header.set_zooms((3, 3, 4, T_R))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return design.assign(drift=np.linspace(-1, 1, N_SCANS), constant=1.0)


def write_mask(path: Path) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:-4, 4:-4, 2:-2] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(mask, AFFINE), path)


# --- the files that pages name -----------------------------------------------------------------


def two_runs(names: tuple[str, ...]) -> Callable[[], None]:
    def write() -> None:
        write_mask(Path("mask.nii.gz"))
        for n in (1, 2):
            design = write_run(Path(f"run-{n}_bold.nii.gz"), names, n)
            design.to_csv(f"run-{n}_design.csv", index=False)

    return write


def one_run() -> None:
    write_mask(Path("mask.nii.gz"))
    write_run(Path("bold.nii.gz"), ("faces", "houses")).to_csv("design.csv", index=False)


def a_study() -> None:
    make_study(Path(), 4, 2, (8, 8, 6, 60))
    Path("scripts").symlink_to(ROOT / "scripts")


def a_study_and_a_run() -> None:
    """The study's mask gives way to that of the run, which is on another grid."""
    a_study()
    table = pd.read_csv("runs.csv", dtype={"subject": str})
    Path("mask.nii.gz").rename("study_mask.nii.gz")
    table.assign(mask="study_mask.nii.gz").to_csv("runs.csv", index=False)
    one_run()


def a_study_of_faces() -> None:
    """With the columns and files that the page's model names."""
    table = pd.read_csv(make_study(Path(), 4, 2, (8, 8, 6, 60))[0], dtype={"subject": str})
    events = pd.read_csv("events.tsv", sep="\t")
    events["trial_type"] = events["trial_type"].map({"A": "face", "B": "house"})
    events.to_csv("events.tsv", sep="\t", index=False)
    motion = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    rng = np.random.default_rng(0)
    confounds = pd.DataFrame(rng.normal(0, 0.1, (60, 6)), columns=motion)
    confounds.assign(motion_outlier00=np.arange(60) == 30).astype(float).to_csv(
        "confounds.tsv", sep="\t", index=False
    )
    table.assign(confounds="confounds.tsv").to_csv("runs.csv", index=False)
    Path("scripts").symlink_to(ROOT / "scripts")


def results_to_report() -> None:
    """A study that was done, the runs of a subject, and maps that were saved."""
    a_study()
    cg.run_study("runs.csv", "model.toml", "out", progress=False)
    two_runs(("faces", "houses"))()
    maps = [
        cg.contrast(cg.fit(f"run-{n}_bold.nii.gz", f"run-{n}_design.csv"), "faces") for n in (1, 2)
    ]
    cg.save(cg.fixed_effects(maps), "maps", prefix="fixed")
    data = nib.load("run-1_bold.nii.gz").get_fdata().mean(axis=3)
    nib.save(nib.Nifti1Image(data.astype(np.float32), AFFINE), "mean.nii.gz")


def other_packages() -> None:
    one_run()
    design = pd.read_csv("design.csv")
    rows = np.c_[design[["faces", "houses"]], np.random.default_rng(0).normal(0, 1, N_SCANS)]
    np.savetxt("design.mat", rows, header="/NumWaves 3\n/Matrix", comments="")
    labels = "Run#1Pol#0 ; Run#1Pol#1 ; faces#0 ; houses#0 ; mot_x#0"
    x = np.c_[design[["constant", "drift"]], rows]
    np.savetxt(
        "X.xmat.1D", x, header=f'<matrix\n  ColumnLabels = "{labels}"\n>', footer="</matrix>"
    )


def two_runs_of_nilearns_example() -> None:
    two_runs(("DStSSp", "DStDSp", "SStSSp", "SStDSp"))()


PREPARE: dict[str, Callable[[], None]] = {
    "README.md": two_runs_of_nilearns_example,
    "docs/index.md": two_runs(("faces", "houses")),
    "docs/first-steps.md": lambda: None,
    "docs/howto/big-run.md": one_run,
    "docs/howto/cluster.md": a_study_and_a_run,
    "docs/howto/other-packages.md": other_packages,
    "docs/howto/s3.md": one_run,
    "docs/howto/slurm.md": a_study_and_a_run,
    "docs/report.md": results_to_report,
    "docs/studies.md": a_study_of_faces,
}

SBATCH = """#!/bin/bash
# Stands for SLURM: runs a job where it is submitted, each task of an array in turn.
array=; script=()
for word in "$@"; do
  case "$word" in
    --array=*) array=${word#--array=} ;;
    --*) ;;
    *) script+=("$word") ;;
  esac
done
for task in $(if [ -n "$array" ]; then seq ${array%-*} ${array#*-}; else echo none; fi); do
  if [ $task = none ]; then unset SLURM_ARRAY_TASK_ID; else export SLURM_ARRAY_TASK_ID=$task; fi
  bash "${script[@]}" >&2
done
echo 17
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has `sbatch`, and the modules that start workers through it."""
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(SBATCH)
    sbatch.chmod(sbatch.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "stand_ins"))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The buckets that pages name, on this machine: one of all the world's, one of one's own."""
    with s3_server() as server:
        for name, value in {
            "AWS_ENDPOINT_URL": server.endpoint, "AWS_ACCESS_KEY_ID": S3.key,
            "AWS_SECRET_ACCESS_KEY": S3.secret, "AWS_DEFAULT_REGION": "us-east-1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        for name in ("openneuro.org", "my-bucket"):
            server.client.create_bucket(Bucket=name)
        yield server


def fill(server: S3, folder: Path) -> None:
    write_run(folder / "bold.nii.gz", ("face", "house"))
    events = pd.DataFrame({"onset": [10.0, 40, 70, 100], "duration": 10.0,
                           "trial_type": ["face", "house"] * 2})  # fmt: skip
    root = "ds000105/sub-1/func/sub-1_task-objectviewing_run-01"
    everyone = {"Bucket": "openneuro.org", "ACL": "public-read"}
    bold = (folder / "bold.nii.gz").read_bytes()
    server.client.put_object(Key=f"{root}_bold.nii.gz", Body=bold, **everyone)
    text = events.to_csv(sep="\t", index=False).encode()
    server.client.put_object(Key=f"{root}_events.tsv", Body=text, **everyone)
    write_mask(folder / "mask.nii.gz")
    server.client.put_object(
        Bucket="my-bucket", Key="mask.nii.gz", Body=(folder / "mask.nii.gz").read_bytes()
    )


# --- the tests ---------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in all_pages() if blocks_of(page)])
@pytest.mark.usefixtures("slurm")
def test_page__every_code_block_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    monkeypatch.chdir(folder)
    if page == "docs/howto/s3.md":
        fill(request.getfixturevalue("bucket"), tmp_path / "remote")
    PREPARE.get(page, lambda: None)()
    blocks = blocks_of(page)
    unnamed = [block.place for block in blocks if not block.language]
    assert unnamed == [], "say what language these are in"
    runner = Runner(FILES.get(page, {}), SKIPPED, IN_A_JOB)
    # A page may show a command before the files that it takes.
    for block in sorted(blocks, key=lambda b: b.language in ("python", "bash", "text")):
        runner.run(block)


def test_skipped__are_there_and_no_more() -> None:
    """What is not run is on the list by the beginning of its text, so that the list is no hole."""
    found = [b for page in all_pages() for b in blocks_of(page)]
    for start in SKIPPED:
        assert len([b for b in found if b.text.startswith(start)]) == 1, start


def test_links__lead_to_what_is_there() -> None:
    """Relative links of pages and of README; those to headings are checked by the build."""
    for page in [*all_pages(), "CHANGELOG.md", "ARCHITECTURE.md"]:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if not target.startswith(("http://", "https://", "mailto:")):
                assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_assert_printed__compares_words_and_numbers() -> None:
    assert_printed("z 8.4 of\n  ... voxels", "z 8.41  of 24407 voxels\n", "here")
    for shown, printed in (
        ("z 8.4", "z 9.4"),
        ("z 8.4", "t 8.4"),
        ("a ... b", "a c"),
        ("a", "a b"),
    ):
        with pytest.raises(AssertionError, match="here"):
            assert_printed(shown, printed, "here")


@pytest.mark.parametrize(
    ("text", "error"), [("x = nothing", NameError), ("raise SystemExit(1)", SystemExit)]
)
def test_runner__python_that_fails_is_a_failure(text: str, error: type[BaseException]) -> None:
    with pytest.raises(error):
        Runner().run(Block("README.md", 3, "python", text))


def test_runner__a_shell_command_that_fails_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"README.md, line 3: exit code 1"):
        Runner().run(Block("README.md", 3, "bash", "false | true\ntrue"))


def test_reference__has_every_public_name() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^   ([\w.]+)$", text, re.MULTILINE))
    # A module's page would be a list of what is listed here.
    missing = set(cg.__all__) - {"plotting"} - listed
    assert not missing
    assert {f"plotting.{name}" for name in cg.plotting.__all__} - {
        "plotting.plot_montage"
    } <= listed
