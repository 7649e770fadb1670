"""The command as a user calls it: in its own process, where exit codes and tracebacks count."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import chunkglm as cg

SHAPE, N_SCANS = (6, 5, 4), 40


def chunkglm(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chunkglm", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A run, its design and mask, as files."""
    rng = np.random.default_rng(3)
    affine = np.diag([3.0, 3.0, 4.0, 1.0])
    task = (np.arange(N_SCANS) // 5 % 2).astype(float)
    data = rng.normal(1000, 10, (*SHAPE, N_SCANS)) + 20 * task
    image = nib.Nifti1Image(data.astype(np.int16), affine)
    image.header.set_zooms((3, 3, 4, 2))
    found = {name: tmp_path / name for name in ("run 1.nii.gz", "design.csv", "mask.nii.gz")}
    nib.save(image, found["run 1.nii.gz"])
    mask = np.ones(SHAPE, np.uint8)
    mask[0] = 0
    nib.save(nib.Nifti1Image(mask, affine), found["mask.nii.gz"])
    table = pd.DataFrame({"task": task, "trend": np.linspace(-1, 1, N_SCANS), "constant": 1.0})
    table.to_csv(found["design.csv"], index=False)
    return {"run": found["run 1.nii.gz"], "design": found["design.csv"],
            "mask": found["mask.nii.gz"], "folder": tmp_path}  # fmt: skip


def test_fit__writes_the_maps_of_the_api(files: dict[str, Path]) -> None:
    out = files["folder"] / "maps"
    done = chunkglm("fit", files["run"], files["design"], "--mask", files["mask"],
                    "--contrast", "task", "--out", out, "--prefix", "sub-1")  # fmt: skip
    fit = cg.fit(cg.open_run(files["run"]), files["design"], mask=files["mask"])
    expected = cg.contrast(fit, "task").compute()
    written = nib.load(out / "sub-1_stat-t_statmap.nii.gz").get_fdata()
    np.testing.assert_array_equal(written, np.nan_to_num(expected["stat"].to_numpy()))
    assert written.max() > 3
    assert done.returncode == 0, done.stderr
    assert [Path(line).name for line in done.stdout.split("\n")[:-1]] == [
        f"sub-1_stat-{stat}_statmap.nii.gz" for stat in ("effect", "variance", "t", "p", "z")
    ]
    sidecar = json.loads((out / "sub-1_stat-t_statmap.json").read_text())
    assert sidecar["DegreesOfFreedom"] == N_SCANS - 3
    assert sidecar["Contrast"] == "task"


def test_fit__takes_noise_of_any_order_and_a_sample_mask(files: dict[str, Path]) -> None:
    keep = np.ones(N_SCANS, bool)
    keep[[0, 9, 11]] = False
    mask = files["folder"] / "keep.txt"
    mask.write_text("\n".join(str(i) for i in np.flatnonzero(keep)))
    out = files["folder"] / "maps"
    done = chunkglm("fit", files["run"], files["design"], "--mask", files["mask"],
                    "--noise", "ar3", "--stationary", "--iterations", 2, "--sample-mask", mask,
                    "--contrast", "task", "--out", out, "--prefix", "kept")  # fmt: skip
    assert done.returncode == 0, done.stderr
    noise = cg.AR(3, initial="stationary", iterations=2)
    fit = cg.fit(files["run"], files["design"], mask=files["mask"], noise=noise, sample_mask=keep)
    expected = cg.contrast(fit, "task").compute()
    written = nib.load(out / "kept_stat-t_statmap.nii.gz").get_fdata()
    np.testing.assert_array_equal(written, np.nan_to_num(expected["stat"].to_numpy()))
    assert expected.attrs["dof"] == N_SCANS - 3 - 3
    done = chunkglm("fit", files["run"], files["design"], "--sample-mask", files["run"],
                    "--contrast", "task", "--out", out, "--prefix", "x")  # fmt: skip
    assert_refused(done, "is not a sample mask")
    done = chunkglm("fit", files["run"], files["design"], "--noise", "ar2", "--bins", 100,
                    "--contrast", "task", "--out", out, "--prefix", "x")  # fmt: skip
    assert_refused(done, "bins are for noise of order 1")
    done = chunkglm("plan", "fit", files["run"], files["design"], "--noise", "ar3",
                    "--sample-mask", mask)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_fit__noise_is_that_of_the_api_unless_it_is_to_be_nilearns(files: dict[str, Path]) -> None:
    out = files["folder"] / "maps"
    for i, (options, noise) in enumerate(
        [
            ([], "ar1, corrected"),
            (["--bins", 100], "ar1, 100 bins"),
            (["--iterations", 2], "ar1, 2 iterations"),
            (["--noise", "ar2, corrected"], "ar2, corrected"),
        ]
    ):
        done = chunkglm("fit", files["run"], files["design"], "--mask", files["mask"], *options,
                        "--contrast", "task", "--out", out, "--prefix", f"p{i}")  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads((out / f"p{i}_stat-t_statmap.json").read_text())["NoiseModel"] == noise
    assert str(cg.fit(files["run"], files["design"]).noise) == "ar1, corrected"


def test_fixed_effects__equals_the_api_and_takes_stores(files: dict[str, Path]) -> None:
    folder = files["folder"]
    store = folder / "run.zarr"
    assert chunkglm("convert", files["run"], store, "--quiet").returncode == 0
    maps = folder / "maps"
    for prefix, noise in (("a", "ar1"), ("b", "ols")):
        done = chunkglm("fit", store, files["design"], "--mask", files["mask"], "--noise", noise,
                        "--contrast", "task", "--out", maps, "--prefix", prefix)  # fmt: skip
        assert done.returncode == 0, done.stderr
    done = chunkglm("fixed-effects", maps / "a", maps / "b", "--out", maps, "--prefix", "both")
    assert done.returncode == 0, done.stderr
    fits = [cg.fit(cg.open_run(store), files["design"], mask=files["mask"], noise=noise)
            for noise in ("ar1", "ols")]  # fmt: skip
    expected = cg.fixed_effects([cg.contrast(fit, "task") for fit in fits]).compute()
    written = nib.load(maps / "both_stat-z_statmap.nii.gz").get_fdata()
    np.testing.assert_array_equal(written, np.nan_to_num(expected["z_score"].to_numpy()))
    assert written.max() > 3
    # As a shell spells out `maps/[ab]_*`: each file means its set, and all of them mean it once.
    everything = sorted([*maps.glob("a_*"), *maps.glob("b_*")])
    assert len(everything) == 20
    done = chunkglm("fixed-effects", *everything, "--out", maps, "--prefix", "globbed")
    assert done.returncode == 0, done.stderr
    told = json.loads((maps / "globbed_stat-t_statmap.json").read_text())
    assert told["NumberOfRuns"] == 2
    globbed = nib.load(maps / "globbed_stat-z_statmap.nii.gz").get_fdata()
    np.testing.assert_array_equal(globbed, written)
    # One given twice by its prefix is meant twice, and told.
    done = chunkglm("fixed-effects", maps / "a", maps / "a", "--out", maps, "--prefix", "twice")
    assert "given more than once" in done.stderr
    done = chunkglm("fixed-effects", maps / "a", maps / "A", "--out", maps, "--prefix", "x")
    assert done.returncode == 2
    assert "did you mean 'a'?" in done.stderr
    assert f"{maps} holds 'a', 'b'" in done.stderr


def test_threshold__equals_the_api(files: dict[str, Path]) -> None:
    out = files["folder"] / "maps"
    done = chunkglm("fit", files["run"], files["design"], "--mask", files["mask"],
                    "--contrast", "task", "--out", out, "--prefix", "a")  # fmt: skip
    assert done.returncode == 0, done.stderr
    maps = cg.open_maps(out, prefix="a")
    for prefix, options, choices in (
        ("fdr", ["--height-control", "fdr", "--alpha", 0.05], {"height_control": "fdr"}),
        ("height", ["--height", 3], {"height_control": None, "threshold": 3.0}),
    ):
        done = chunkglm("threshold", out / "a", *options, "--cluster-threshold", 2, "--one-sided",
                        "--out", out, "--prefix", prefix)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == str(out / f"{prefix}_clusters.tsv")
        expected = cg.threshold(
            maps, alpha=0.05, cluster_threshold=2, two_sided=False, **choices
        ).compute()
        written = nib.load(out / f"{prefix}_stat-z_desc-thresholded_statmap.nii.gz").get_fdata()
        np.testing.assert_array_equal(written, np.nan_to_num(expected["thresholded"].to_numpy()))
        assert (written > 3).sum() > 10
    done = chunkglm("threshold", out / "a", "--alpha", 2, "--out", out, "--prefix", "b")
    assert done.returncode == 2
    assert "alpha" in done.stderr


def test_fixed_effects__adds_runs_and_drops_them(files: dict[str, Path]) -> None:
    maps = files["folder"] / "maps"
    design = pd.read_csv(files["design"])
    prefixes = ("a", "b", "c")
    for i, prefix in enumerate(prefixes):
        run = files["folder"] / f"run-{prefix}.nii.gz"
        image = nib.load(files["run"])
        moved = np.roll(np.asarray(image.dataobj), i, axis=1)
        nib.save(nib.Nifti1Image(moved, image.affine, image.header), run)
        fit = cg.fit(run, design, mask=files["mask"])
        cg.save(cg.contrast(fit, "task"), maps, prefix=prefix)
    done = chunkglm("fixed-effects", maps / "a", maps / "b", "--out", maps, "--prefix", "ab")
    assert done.returncode == 0, done.stderr
    done = chunkglm("fixed-effects", maps / "ab", maps / "c", "--drop", maps / "a",
                    "--out", maps, "--prefix", "bc")  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = cg.fixed_effects([cg.open_maps(maps, prefix=p) for p in "bc"]).compute()
    found = cg.open_maps(maps, prefix="bc")
    np.testing.assert_allclose(found["z_score"], expected["z_score"], rtol=0, atol=1e-10)
    assert cg.contributions(found).equals(cg.contributions(expected))
    done = chunkglm("fixed-effects", maps / "ab", "--drop", maps / "c",
                    "--out", maps, "--prefix", "x")  # fmt: skip
    assert_refused(done, "run-c.nii.gz", "not among")


def test_fixed_effects__refuses_to_overwrite_what_it_reads(files: dict[str, Path]) -> None:
    maps = files["folder"] / "maps"
    chunkglm("fit", files["run"], files["design"], "--contrast", "task", "--out", maps,
             "--prefix", "a")  # fmt: skip
    before = (maps / "a_stat-effect_statmap.nii.gz").read_bytes()
    done = chunkglm("fixed-effects", maps / "a", maps / "a", "--out", maps, "--prefix", "a")
    assert_refused(done, "a", "--prefix")
    assert (maps / "a_stat-effect_statmap.nii.gz").read_bytes() == before


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, one line that holds the words, no traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("chunkglm: error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[0]


def broken(files: dict[str, Path], what: str) -> tuple[dict[str, Path], str, tuple[str, ...]]:
    """One input spoiled: the files, the contrast, and what the message must name."""
    folder, contrast = files["folder"], "task"
    if what == "mask shape":
        path = folder / "small.nii.gz"
        nib.save(nib.Nifti1Image(np.ones((6, 5, 3), np.uint8), np.diag([3.0, 3, 4, 1])), path)
        return {**files, "mask": path}, contrast, (str(path), "(6, 5, 3)", "(6, 5, 4)", "resample")
    if what == "mask affine":
        path = folder / "moved.nii.gz"
        nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.diag([2.0, 3, 4, 1])), path)
        return {**files, "mask": path}, contrast, (str(path), "2 0 0 0", "3 0 0 0", "resample")
    table = pd.read_csv(files["design"])
    path = folder / "other.csv"
    if what == "design rows":
        table.iloc[:-1].to_csv(path, index=False)
        return {**files, "design": path}, contrast, (str(path), "39", "40")
    if what == "design NaN":
        table.loc[7, "trend"] = np.nan
        table.to_csv(path, index=False)
        return {**files, "design": path}, contrast, (str(path), "trend")
    if what == "unknown condition":
        return files, "task - rest", ("rest", "'task', 'trend', 'constant'")
    whole = files["run"].read_bytes()
    path = folder / "spoiled.nii.gz"
    if what == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :])
    return {**files, "run": path}, contrast, (str(path), "corrupt")


@pytest.mark.parametrize(
    "what",
    [
        "mask shape", "mask affine", "design rows", "design NaN", "unknown condition",
        "truncated", "flipped bit",
    ],
)  # fmt: skip
def test_fit__bad_input_is_one_line_and_leaves_nothing(files: dict[str, Path], what: str) -> None:
    spoiled, contrast, words = broken(files, what)
    out = files["folder"] / "maps"
    done = chunkglm("fit", spoiled["run"], spoiled["design"], "--mask", spoiled["mask"],
                    "--contrast", contrast, "--out", out, "--prefix", "x")  # fmt: skip
    assert_refused(done, *words)
    assert not out.exists() or list(out.iterdir()) == []


@pytest.mark.parametrize("what", ["truncated", "flipped bit"])
def test_convert__bad_input_is_one_line_and_leaves_nothing(
    files: dict[str, Path], what: str
) -> None:
    spoiled, _, words = broken(files, what)
    before = sorted(files["folder"].iterdir())
    done = chunkglm("convert", spoiled["run"], files["folder"] / "run.zarr", "--quiet")
    assert_refused(done, *words)
    assert sorted(files["folder"].iterdir()) == before


def test_main__says_its_version_and_its_commands() -> None:
    done = chunkglm("--version")
    assert "0.1.0" in done.stdout
    listed = chunkglm("--help").stdout
    for command in ("demo", "convert", "fit", "fixed-effects"):
        assert command in listed


def test_fit__warnings_are_one_line_each(files: dict[str, Path]) -> None:
    table = pd.read_csv(files["design"])
    path = files["folder"] / "dependent.csv"
    table.assign(twice=2 * table["task"] + table["constant"]).to_csv(path, index=False)
    done = chunkglm("fit", files["run"], path, "--contrast", "trend",
                    "--out", files["folder"] / "maps", "--prefix", "x")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "warning" in line]
    assert line.startswith("chunkglm: warning: ")
    assert "rank 3" in line
