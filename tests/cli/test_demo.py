"""The demo, whole, in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

PNG = b"\x89PNG\r\n\x1a\n"
README = Path(__file__).parents[2] / "README.md"

# README shows rounded figures; a voxel at a threshold may fall to the other side elsewhere.
AS_PRINTED = 0.01

pytestmark = pytest.mark.xdist_group("demo")  # in one process: the demo takes 10 s


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo") / "out"
    command = [sys.executable, "-m", "chunkglm", "demo", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def numbers(text: str, line: str) -> list[float]:
    found = next(s for s in text.splitlines() if s.startswith(line))
    return [float(n) for n in re.findall(r"-?\d+\.?\d*", found.removeprefix(line))]


def test_demo__fixed_effects_peak_is_above_both_runs(demo: tuple[Path, str]) -> None:
    run_1, run_2, fixed = numbers(demo[1], "peak t")
    assert fixed > max(run_1, run_2) > 5


def test_demo__prints_what_readme_shows(demo: tuple[Path, str]) -> None:
    shown = README.read_text(encoding="utf-8")
    for line in ("peak t", "peak z", "voxels with z > 3", "activated voxels found, z > 3.09"):
        assert numbers(demo[1], line) == pytest.approx(numbers(shown, line), rel=AS_PRINTED), line


def test_demo__finds_the_activation_where_it_was_put(demo: tuple[Path, str]) -> None:
    out, _ = demo
    z = nib.load(out / "maps" / "fixed_contrast-DStMinusSSt_stat-z_statmap.nii.gz").get_fdata()
    truth = next((out / "data").rglob("activation.nii.gz"))
    active = nib.load(truth).get_fdata() > 0
    assert active[np.unravel_index(z.argmax(), z.shape)]
    assert (z[active] > 3.09).mean() > 0.5


def test_demo__false_positives_are_not_above_nilearns(demo: tuple[Path, str]) -> None:
    *_, fixed, nilearn = numbers(demo[1], "voxels far from it, z > 3.09")
    assert 0 < fixed <= nilearn


def test_demo__draws_three_pictures(demo: tuple[Path, str]) -> None:
    pictures = sorted(demo[0].glob("*.png"))
    assert [p.read_bytes()[:8] for p in pictures] == [PNG] * 3
    assert all(str(p) in demo[1] for p in pictures)


def test_demo__writes_a_report_of_both_runs(demo: tuple[Path, str]) -> None:
    page = demo[0] / "report.html"
    assert f"report    {page}" in demo[1]
    text = page.read_text(encoding="utf-8")
    assert len(text) < 15_000_000
    for words in ("run-1.zarr", "run-2.zarr", "Autocorrelation of the noise", "DStMinusSSt"):
        assert words in text
