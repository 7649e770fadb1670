"""Measure how a study scales: with workers, with subjects, and, on paper, to a large cluster.

    python scripts/scaling.py [--folder FOLDER] [--pairs 5] [--time-only | --memory-only]

Run it with nothing else going on. Times of 1 and 2 worker processes alternate, as near to each
other as can be, after each worker has done a run: starting processes and importing libraries, once
for each worker however many runs it does, is not counted. All else of `run_study` is: checking the
table, planning, fits, maps on the disk, records and the store of all subjects. A worker has one
thread, of BLAS too; driver and scheduler are in a process of their own, and take their time from
the workers where there are no more cores than these. Two studies are timed: many small runs, and 16
of a usual size. Each half of the latter is also done by a process of its own, without any cluster,
one after the other and both at once: what the machine's cores gain by being two.

Peak memory is that of fresh processes, Linux only: of each worker, and of the process that holds
driver and scheduler. The study of 240 subjects is that of 60 four times over, by links.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
from make_study import make_study

import chunkglm as cg
from chunkglm.study.engines import local_cluster

SHAPE = (32, 32, 20, 120)
SUBJECTS, RUNS = 60, 2
USUAL_SHAPE, USUAL_SUBJECTS = (64, 64, 30, 191), 8
TIMES_OVER = 4

# Pairs of the study of few jobs for each of the other's: it is shorter, and its ratio is another
# from one pair to the next, as much depends on which worker is the last, and on when.
OF_FEW_JOBS = 3

# Of the projection: a data set of functional runs as scanners make them today.
LARGE = {"subjects": 10_000, "runs": 4, "workers": 100, "shape": (64, 64, 40, 300)}
DISK_MB_PER_SECOND = 2000  # of the shared file system, all workers together
COMPRESSED_BYTES_PER_SAMPLE = 1.2  # int16 in .nii.gz


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the simulated study is kept")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--time-only", action="store_true")
    parser.add_argument("--memory-only", action="store_true")
    parser.add_argument("--alone", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--half", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        peaks_alone(**args.alone)
        return
    if args.half:
        half_alone(Path(args.half[0]), int(args.half[1]))
        return
    with tempfile.TemporaryDirectory() as scratch:
        study = args.folder or Path(scratch) / "study"
        if not (study / "runs.csv").exists():
            make_study(study, SUBJECTS, RUNS, SHAPE)
        if not args.memory_only:
            small = times(study, SHAPE, Path(scratch), args.pairs)
            usual = study / "usual"
            if not (usual / "runs.csv").exists():
                make_study(usual, USUAL_SUBJECTS, RUNS, USUAL_SHAPE)
            times(usual, USUAL_SHAPE, Path(scratch), OF_FEW_JOBS * args.pairs)
            limit(usual, args.pairs)
            project(*small)
        if not args.time_only:
            memory(study, Path(scratch))


def times(study: Path, shape: tuple[int, ...], scratch: Path, pairs: int) -> tuple[float, float]:
    """1 worker against 2; seconds of a run on one worker, and of the driver for it."""
    table, model, out = table_of(study), study / "model.toml", scratch / "out"
    seen: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    with local_cluster(1) as one_worker, local_cluster(2) as two_workers:
        clients = {1: one_worker, 2: two_workers}
        for n, client in clients.items():
            warm_up(client, table, model, scratch / f"warm-{n}", n)
        for _ in range(pairs):
            for n, client in clients.items():
                seen[n].append(timed(client, table, model, out))
    one, two = ([seconds for seconds, _ in seen[n]] for n in (1, 2))
    ratios = [a / b for a, b in zip(one, two, strict=True)]
    print(f"{len(table)} runs of {'x'.join(map(str, shape))}, two a subject")
    print(f"  1 worker   {statistics.median(one):6.2f} s  ({min(one):.2f}-{max(one):.2f})")
    print(f"  2 workers  {statistics.median(two):6.2f} s  ({min(two):.2f}-{max(two):.2f})")
    print(f"  ratio      {statistics.median(ratios):6.2f}    ({min(ratios):.2f}-{max(ratios):.2f})"
          f"  goal >= 1.8, median of {pairs} alternating pairs")  # fmt: skip
    driver = statistics.median(cpu for _, cpu in seen[1]) / len(table)
    print(f"  driver and scheduler: {1000 * driver:.1f} ms of CPU for each run", flush=True)
    return statistics.median(one) / len(table), driver


def table_of(study: Path) -> pd.DataFrame:
    """The runs of a study, their paths in full."""
    table = pd.read_csv(study / "runs.csv", dtype=str)
    for name in ("bold", "events", "mask"):
        table[name] = [str((study / path).absolute()) for path in table[name]]
    return table


def limit(study: Path, pairs: int) -> None:
    """What two processes gain that have nothing to do with each other."""
    ratios = [in_turn / at_once for in_turn, at_once in (halves(study) for _ in range(pairs))]
    print(f"  without a cluster, half of the runs in each of two processes: "
          f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
          flush=True)  # fmt: skip


def halves(study: Path) -> tuple[float, float]:
    """Seconds of two processes with half of a study each: in turn, and both at once."""
    commands = [[sys.executable, __file__, "--half", str(study), str(i)] for i in (0, 1)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    both = [subprocess.Popen(command, text=True, **pipes) for command in commands]
    for one in both:
        one.stdout.readline()  # it has done some runs
    in_turn = sum(begun([one])[0] for one in both)
    at_once = max(begun(both))
    for one in both:
        one.communicate()
    return in_turn, at_once


def begun(processes: list[Any]) -> list[float]:
    """Let processes do their halves at once; the seconds of each."""
    for one in processes:
        print("go", file=one.stdin, flush=True)
    return [float(one.stdout.readline()) for one in processes]


def half_alone(study: Path, i: int) -> None:
    """Do half of a study in one thread, as often as told to."""
    table = table_of(study)
    n = len(table) // 2
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        options: dict[str, Any] = {"threads": 1, "progress": False, "resume": False}
        cg.run_study(table.iloc[: 2 * RUNS], study / "model.toml", out / "warm", **options)
        print("ready", flush=True)
        for _ in sys.stdin:
            os.sync()
            start = time.perf_counter()
            half = table.iloc[i * n : (i + 1) * n]
            cg.run_study(half, study / "model.toml", out / "out", **options)
            print(time.perf_counter() - start, flush=True)


def warm_up(client: Any, table: Any, model: Path, out: Path, n_workers: int) -> None:
    """Let each worker import what it needs, and this process make the design once."""
    some = [f"warm{i // RUNS}" for i in range(2 * RUNS * n_workers)]
    warm = table.iloc[: len(some)].assign(subject=some)
    cg.run_study(warm, model, out, client=client, progress=False)


def timed(client: Any, table: Any, model: Path, out: Path) -> tuple[float, float]:
    """Seconds of a study, and of them the CPU seconds of this process."""
    shutil.rmtree(out, ignore_errors=True)
    os.sync()  # what was written before, lest the disk be busy with it meanwhile
    start, cpu = time.perf_counter(), time.process_time()
    report = cg.run_study(table, model, out, client=client, progress=False)
    found = time.perf_counter() - start, time.process_time() - cpu
    if report.failed:
        sys.exit(f"runs failed, nothing is timed: {report!r}")
    return found


def project(seconds_per_run: float, driver_per_run: float) -> None:
    """The paper projection, with all that it assumes."""
    x, y, z, t = LARGE["shape"]
    samples = x * y * z * t
    factor = samples / (SHAPE[0] * SHAPE[1] * SHAPE[2] * SHAPE[3])
    n_runs = LARGE["subjects"] * LARGE["runs"]
    work = n_runs * seconds_per_run * factor / LARGE["workers"]
    reading = n_runs * samples * COMPRESSED_BYTES_PER_SAMPLE / (DISK_MB_PER_SECOND * 1e6)
    driving = n_runs * driver_per_run
    print(f"projection: {LARGE['subjects']:,} subjects x {LARGE['runs']} runs of {x}x{y}x{z}x{t} "
          f"on {LARGE['workers']} workers, one thread each")  # fmt: skip
    print(f"  workers    {work / 60:6.0f} min  if a run takes as many times longer as it has more "
          f"samples ({factor:.0f}), on cores like this one, none idle")  # fmt: skip
    print(f"  reading    {reading / 60:6.0f} min  if the files are {COMPRESSED_BYTES_PER_SAMPLE} "
          f"bytes a sample and the disk gives {DISK_MB_PER_SECOND} MB/s to all")  # fmt: skip
    print(f"  driver     {driving / 60:6.0f} min  if it takes as long for each run as seen here")
    print(
        f"  so at least{max(work, reading, driving) / 60:6.0f} min: the longest, for they overlap"
    )


def memory(study: Path, scratch: Path) -> None:
    """Peaks at 60 and 240 subjects."""
    print(f"peak memory, MB, 2 workers, {RUNS} runs a subject")
    seen = {}
    for times_over in (1, TIMES_OVER):
        table = scratch / f"runs-{times_over}.csv"
        subjects = multiplied(study, scratch / "links", times_over, table)
        job = {"table": str(table), "model": str(study / "model.toml")}
        job["out"] = str(scratch / f"out-{times_over}")
        command = [sys.executable, __file__, "--alone", json.dumps(job)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        seen[subjects] = json.loads(done.stdout.splitlines()[-1])
        peaks = seen[subjects]
        workers = " and ".join(f"{peak:.0f}" for peak in peaks["workers"])
        print(f"  {subjects:4} subjects: workers {workers}, driver and scheduler "
              f"{peaks['driver']:.0f}", flush=True)  # fmt: skip
    few, many = (seen[n] for n in sorted(seen))
    print(f"  growth: workers {max(many['workers']) / max(few['workers']) - 1:+.1%}, driver and "
          f"scheduler {many['driver'] / few['driver'] - 1:+.1%}")  # fmt: skip


def multiplied(study: Path, links: Path, times_over: int, table: Path) -> int:
    """Write a table with each subject several times, under other names; return their number."""
    rows = pd.read_csv(study / "runs.csv", dtype=str)
    links.mkdir(exist_ok=True)
    parts = []
    for i in range(times_over):
        part = rows.assign(subject=[f"{s}x{i}" for s in rows["subject"]])
        for name in ("bold", "events", "mask"):
            part[name] = [str((study / path).absolute()) for path in rows[name]]
        for j, path in enumerate(part["bold"]):
            link = links / f"{i}-{j}_bold.nii.gz"
            if not link.exists():
                link.symlink_to(path)
            part.loc[part.index[j], "bold"] = str(link)
        parts.append(part)
    whole = pd.concat(parts)
    whole.to_csv(table, index=False)
    return int(whole["subject"].nunique())


def peaks_alone(table: str, model: str, out: str) -> None:
    """Do a study in this fresh process, and print the peak memory of all that took part."""
    with local_cluster(2) as client:
        report = cg.run_study(table, model, out, client=client, progress=False)
        workers = [peak_megabytes(pid) for pid in client.run(os.getpid).values()]
    if report.failed:
        sys.exit(repr(report))
    print(json.dumps({"workers": workers, "driver": peak_megabytes(os.getpid())}))


def peak_megabytes(pid: int) -> float:
    """Most that a process ever held, as Linux tells."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(s for s in lines if s.startswith("VmHWM")).split()[1]) / 2**10


if __name__ == "__main__":
    main()
