"""Kill a worker at random moments of a study, and see that the same bytes come out each time.

python scripts/fault_drill.py --kills 20
"""

import argparse
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from make_study import make_study

import chunkglm as cg
from chunkglm.study.engines import local_cluster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--subjects", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = make_study(folder / "study", args.subjects, 2, (24, 24, 12, 100))
        cg.run_study(*files, folder / "calm", threads=1, progress=False)
        expected = digest(folder / "calm")
        with local_cluster(2) as client:
            start = time.monotonic()
            cg.run_study(*files, folder / "whole", client=client, progress=False)
            seconds = time.monotonic() - start
        wrong = int(digest(folder / "whole") != expected)
        n_killed = 0
        while n_killed < args.kills:
            delay = rng.uniform(0, seconds)
            took, told = killed_once(files, folder / "killed", delay, rng)
            same = not told and digest(folder / "killed") == expected
            wrong += not same
            n_killed += delay < took  # else the study was over first, and it is done again
            print(f"killed after {delay:5.2f} s of {took:5.2f} s: "
                  f"{'the same bytes' if same else told or 'other bytes'}", flush=True)  # fmt: skip
            shutil.rmtree(folder / "killed")
    sys.exit(f"{wrong} studies differ" if wrong else None)


def killed_once(
    files: tuple[Path, Path], out: Path, delay: float, rng: np.random.Generator
) -> tuple[float, str]:
    """Do a study on a fresh cluster and kill a worker on the way; its seconds, and what failed.

    The cluster is fresh, since a nanny whose worker is killed while it starts may not start another
    (distributed 2026.8): studies go on with the other worker, but waiting for two has no end.
    """
    with local_cluster(2) as client:
        pids = list(client.run(os.getpid).values())
        killer = threading.Timer(delay, os.kill, (int(rng.choice(pids)), signal.SIGKILL))
        start = time.monotonic()
        killer.start()
        report = cg.run_study(*files, out, client=client, progress=False)
        killer.cancel()
        return time.monotonic() - start, repr(report) if report.failed else ""


def digest(out: Path) -> str:
    """Of all maps and sidecars and their names; what else lies in the folders counts too."""
    found = hashlib.sha256()
    for path in sorted(p for p in out.glob("sub-*/**/*") if p.is_file()):
        found.update(path.relative_to(out).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


if __name__ == "__main__":
    main()
