"""What workers are spared: faults of memory, nilearn; and what they make besides maps."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from test_run import run

import chunkglm as cg
import chunkglm.io.manifest as manifest
from chunkglm.build import code_digest
from chunkglm.study import records
from chunkglm.study.designs import SharedDesigns, design_of
from chunkglm.study.hashes import stamp_file
from chunkglm.study.model import read_model
from chunkglm.study.table import read_runs

FAULTS = """
import resource, sys
import numpy as np
from chunkglm.study.heap import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        np.full(500_000, 1.0)  # 4 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = faults()
keep_freed_memory()
faults()
print(first, faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc is told so on Linux")
def test_keep_freed_memory__spares_faults_where_the_nanny_asks_for_them() -> None:
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True
    )
    first, then = map(int, done.stdout.split())
    assert first > 10_000  # 4 MB of pages of 4 kB, 50 times, is 50,000
    assert then < first / 50


def test_shared_designs__are_those_that_workers_would_make(study: Path, tmp_path: Path) -> None:
    model, rows = read_model(study / "model.toml"), read_runs(study / "runs.csv")
    (made,) = SharedDesigns(model, rows, {}).of(rows[:2])
    sha = stamp_file(rows[0].events, {}).sha256
    assert (made.events, made.n_scans, made.t_r) == (sha, 60, 2.0)
    own = cg.design_from_events(study / "events.tsv", n_scans=60, t_r=2.0)
    given = design_of(rows[0], model, sha, 60, 2.0, [made])
    assert given is made.table
    pd.testing.assert_frame_equal(given, own, check_exact=True)
    # Of a run with other volumes, or events that have changed since, it is no design.
    assert len(design_of(rows[0], model, sha, 50, 2.0, [made])) == 50
    assert design_of(rows[0], model, "other", 60, 2.0, [made]) is not made.table
    assert SharedDesigns(model, rows[:1], {}).of(rows[:1]) == ()
    (tmp_path / "events.tsv").write_text("nothing\n")
    bad = [replace(row, events=str(tmp_path / "events.tsv")) for row in rows]
    assert SharedDesigns(model, bad, {}).of(bad) == ()


def test_group_store__is_the_same_where_files_cannot_be_linked(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"contrasts": {"mean": "(A + B) / 2", "both": ["A", "B"]}}

    def stored(name: str) -> Any:
        cg.run_study(study / "runs.csv", model, tmp_path / name, threads=1, progress=False)
        assert cg.verify(tmp_path / name / "group.zarr") == []
        return xr.open_zarr(tmp_path / name / "group.zarr", consolidated=False).load()

    linked = stored("linked")
    chunk = next((tmp_path / "linked" / "pieces" / "sub-01").iterdir())
    assert chunk.stat().st_nlink == 2
    with monkeypatch.context() as patch:
        patch.setattr(manifest.os, "link", refused)
        copied = stored("copied")
    chunk = next((tmp_path / "copied" / "pieces" / "sub-01").iterdir())
    assert chunk.stat().st_nlink == 1
    xr.testing.assert_equal(linked, copied)
    both = linked.sel(contrast="both")
    assert np.isnan(both["effect_size"]).all()  # F has no single effect
    assert np.isfinite(both["z_score"]).any()


def refused(*_: Any) -> None:
    raise OSError("no links here")


def test_run_study__does_all_again_after_a_change_of_code(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(study, out)
    record = json.loads((out / "records" / "sub-01.json").read_text())
    assert record["code"] == code_digest()
    monkeypatch.setattr(records, "code_digest", lambda: "other")
    report = run(study, out)
    assert set(report.done.values()) == {"chunkglm changed within its version"}
    assert len(report.done) == 4
