"""Studies on real clusters: workers die, schedulers go, and the same bytes come out."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster
from test_run import maps_of, run

import chunkglm.study.engines as engines
from chunkglm.errors import ClusterError
from chunkglm.study.engines import connected, local_cluster

POISON = """
import os, signal
import chunkglm.study.jobs as jobs
if not hasattr(jobs, "plain"):
    jobs.plain = jobs.fit_row
    def fit_row(row, *rest):
        if row.label == "sub-02_run-2":
            os.kill(os.getpid(), signal.SIGKILL)
        return jobs.plain(row, *rest)
    jobs.fit_row = fit_row
"""


@pytest.fixture(scope="module")
def expected(study: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected") / "out"
    run(study, out)
    return maps_of(out)


@pytest.fixture
def scheduler() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler in a process of its own."""
    code = (
        "import asyncio\n"
        "from distributed import Scheduler\n"
        "async def main():\n"
        "    async with Scheduler(host='127.0.0.1', port=0, dashboard=False) as s:\n"
        "        print(s.address, flush=True)\n"
        "        await s.finished()\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    yield process.stdout.readline().decode().strip(), process
    process.kill()
    process.wait()


def worker(address: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address]
    command += ["--nthreads", "1", "--no-dashboard", "--no-nanny", "--host", "127.0.0.1"]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def test_workers__give_the_same_bytes_also_when_one_is_killed(
    study: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    with local_cluster(2) as client:
        report = run(study, tmp_path / "calm", client=client)
        assert (len(report.done), report.failed) == (4, {})
        assert maps_of(tmp_path / "calm") == expected
        # 90 MB of each worker: the design, which all runs share, was made here.
        loaded = client.run(lambda: "nilearn" in sys.modules).values()
        assert list(loaded) == [False, False]
        pids = list(client.run(os.getpid).values())
        threading.Timer(0.3, os.kill, (pids[0], signal.SIGKILL)).start()
        report = run(study, tmp_path / "killed", client=client)
        assert (len(report.done), report.failed) == (4, {})
        assert maps_of(tmp_path / "killed") == expected


def test_a_run_that_kills_its_workers__is_blamed_by_name(
    study: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both workers die at once here, and on a busy machine new ones took 18 s to start.
    monkeypatch.setattr(engines, "NO_WORKERS_SECONDS", 200.0)
    poison = tmp_path / "poison.py"
    poison.write_text(POISON)
    began = time.monotonic()
    with (
        dask.config.set({"distributed.worker.preload": [str(poison)]}),
        local_cluster(2) as client,
    ):
        report = run(study, tmp_path / "out", client=client)
    assert list(report.failed) == ["02"]
    assert "sub-02_run-2: its worker was killed whenever it was tried" in report.failed["02"]
    found = maps_of(tmp_path / "out")
    assert found == {name: data for name, data in expected.items() if "sub-02" not in name}
    assert time.monotonic() - began < 300  # no hang; 86 s on a machine full of other work


def test_no_workers__is_an_error_and_the_next_run_goes_on(
    study: Path,
    expected: dict[str, bytes],
    tmp_path: Path,
    scheduler: tuple[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, _ = scheduler
    monkeypatch.setattr(engines, "NO_WORKERS_SECONDS", 3.0)
    out = tmp_path / "out"
    one = worker(address)
    with connected(address) as client:
        client.wait_for_workers(1, timeout=60)
        killer = threading.Thread(target=kill_after_a_record, args=(out, one))
        killer.start()
        with pytest.raises(ClusterError, match="has had no worker for"):
            run(study, out, client=client)
        killer.join()
        done = len(list((out / "records").glob("*.json")))
        assert 1 <= done < 4
        two = worker(address)
        client.wait_for_workers(1, timeout=60)
        report = run(study, out, client=client)
        assert (len(report.kept), len(report.done)) == (done, 4 - done)
    two.kill()
    assert maps_of(out) == expected


def kill_after_a_record(out: Path, process: Any) -> None:
    while not list((out / "records").glob("*.json")):
        time.sleep(0.01)
    process.kill()
    process.wait()


def test_a_scheduler_that_goes__is_an_error_and_the_next_run_goes_on(
    study: Path, expected: dict[str, bytes], tmp_path: Path, scheduler: tuple[str, Any]
) -> None:
    address, process = scheduler
    out = tmp_path / "out"
    one = worker(address)
    with connected(address) as client:
        client.wait_for_workers(1, timeout=60)
        threading.Thread(target=kill_after_a_record, args=(out, process)).start()
        with pytest.raises(ClusterError, match=r"scheduler at .* cannot be reached"):
            run(study, out, client=client)
    one.kill()
    done = len(list((out / "records").glob("*.json")))
    report = run(study, out)
    assert (len(report.kept), len(report.done)) == (done, 4 - done)
    assert maps_of(out) == expected


def test_connected__says_that_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "CONNECT_SECONDS", 1.0)
    refused = pytest.raises(ClusterError, match=r"no scheduler answers at tcp://127\.0\.0\.1:1")
    with refused, connected("tcp://127.0.0.1:1"):
        pass


def test_a_driver_that_is_killed__leaves_what_is_done(
    study: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "chunkglm", "run", study / "runs.csv", study / "model.toml"]
    command += [out, "--quiet", "--threads", "1"]
    process = subprocess.Popen(list(map(str, command)))
    kill_after_a_record(out, process)
    done = len(list((out / "records").glob("*.json")))
    report = run(study, out)
    assert (len(report.kept), len(report.done)) == (done, 4 - done)
    assert maps_of(out) == expected


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="sockets are listed by /proc")
def test_local_cluster__listens_on_this_machine_only() -> None:
    with local_cluster(1) as client:
        pids = {os.getpid(), *client.run(os.getpid).values()}
        assert listening(pids) <= {"127.0.0.1", "::1"}
        assert listening(pids)
    # What it is compared with: distributed's own default shows its dashboard to everyone.
    with LocalCluster(n_workers=0, dashboard_address=":0") as cluster, Client(cluster):
        assert not listening({os.getpid()}) <= {"127.0.0.1", "::1"}


def listening(pids: set[int]) -> set[str]:
    """Addresses on which some processes listen."""
    import psutil

    found = [c for pid in pids for c in psutil.Process(pid).net_connections("tcp")]
    return {c.laddr.ip for c in found if c.status == psutil.CONN_LISTEN}
