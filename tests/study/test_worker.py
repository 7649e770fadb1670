"""What workers are spared: faults of memory, nilearn; and what they make besides maps."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from test_run import maps_of, run

import chunkglm as cg
import chunkglm.io.manifest as manifest
import chunkglm.lazy.collecting as collecting
from chunkglm.build import code_digest
from chunkglm.study import driver, engines, records
from chunkglm.study.designs import SharedDesigns, design_of
from chunkglm.study.hashes import stamp_file
from chunkglm.study.jobs import run_job
from chunkglm.study.model import read_model
from chunkglm.study.results import Work
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


def test_run_job__does_all_in_one_thread_with_the_same_bits(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, row = read_model(study / "model.toml"), read_runs(study / "runs.csv")[0]
    begun: list[str] = []
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        begun.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", noted)
    monkeypatch.setattr(collecting, "SAMPLES_FOR_TWO", 1)  # this run is small
    alone = run_job(row, Work(model, str(tmp_path)))
    assert alone.failure == ""
    assert begun == []
    X = cg.design_from_events(study / "events.tsv", n_scans=60, t_r=2.0)
    fitted = cg.fit(cg.open_run(row.bold, t_r=2.0), X, mask=row.mask, **model.fit_options())
    beside = cg.contrast(fitted, dict(model.contrasts)).compute(scheduler="synchronous")
    assert any(name.startswith("chunkglm-prefetch") for name in begun)
    assert any(name.startswith("chunkglm-pass") for name in begun)
    assert alone.maps is not None
    (maps,) = alone.maps.passes
    for name in maps.data_vars:
        xr.testing.assert_equal(maps[name], beside[name])


class Counting(engines.LocalEngine):
    """Threads of this process, to which jobs are handed out as to a cluster."""

    job_seconds = 600.0

    def __init__(self, *limits: Any) -> None:
        super().__init__(*limits)
        self.jobs: list[tuple[str, str]] = []
        made.append(self)

    def submit(self, kind: str, label: str, job: Any, *args: Any, priority: int = 0) -> Any:
        self.jobs.append((kind, label))
        return super().submit(kind, label, job, *args, priority=priority)


made: list[Counting] = []


def test_driver__makes_one_job_of_several_short_subjects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from make_study import make_study

    files = make_study(tmp_path / "study", 12, 2, (6, 6, 4, 40))
    options: Any = {"threads": 1, "progress": False}
    cg.run_study(*files, tmp_path / "singly", **options)
    monkeypatch.setattr(engines, "LocalEngine", Counting)
    monkeypatch.setattr(driver, "CUT_SECONDS", 60.0)
    report = cg.run_study(*files, tmp_path / "together", **options)
    assert (len(report.done), report.n_runs) == (12, 24)
    # Singly until it is known how long they take; then half of those that wait, since two jobs are
    # begun for a thread; in the end singly again, and none is cut into runs.
    wanted = ["01", "02", "03-to-07", "08-to-09", "10", "11", "12"]
    assert made[-1].jobs == [("subjects", label) for label in wanted]
    assert maps_of(tmp_path / "together") == maps_of(tmp_path / "singly")
