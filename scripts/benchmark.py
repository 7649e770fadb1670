"""Measure chunkglm beside nilearn, in one run on this machine, and print a table of ratios.

    python scripts/benchmark.py --data /tmp/benchdata --json found.json

Run it with nothing else going on; all rows take a quarter of an hour. Timings alternate between the
two sides and medians are quoted; peak memory and whole-process times come from fresh processes. A
ratio is printed only when both sides give the same numbers.

    --quick                three pairs of each row, none of the rows that take minutes
    --only kernel whole    some groups of rows
    --growth, --profile    how time grows, and where it goes
    --check                beside benchmarks/baseline.json: what fell by more than a quarter
    --from found.json      measure nothing; make what follows from an earlier run's JSON
    --markdown docs/benchmark.md, --readme README.md, --baseline benchmarks/baseline.json
"""

import argparse
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
for _folder in (str(ROOT), str(ROOT / "scripts")):
    if _folder not in sys.path:
        sys.path.insert(0, _folder)

BASELINE = ROOT / "benchmarks" / "baseline.json"


def main() -> None:
    args = arguments()
    if args.worker:
        from benchmarks.jobs import work_alone

        work_alone(**args.worker)
        return
    # For both sides and all processes, before anything loads BLAS.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    # Compiled once and kept, as `pip install` leaves every library; nilearn is, a checkout may not.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    from benchmarks import report
    from benchmarks.rows import HEAD, Row, machine

    if args.made_from:
        told, rows, extra = report.read(args.made_from)
    else:
        told, rows, extra = machine(), [], {}
        print("\n".join(f"{key:<12}{value}" for key, value in told.items()))
        print(f"\n{HEAD}", flush=True)

        def show(row: Row) -> None:
            rows.append(row)
            print(row, flush=True)

        try:
            with tempfile.TemporaryDirectory() as scratch:
                measure(args, args.data or Path(scratch) / "data", Path(scratch), show, extra)
        finally:
            # What was measured is kept, also where a later row ends it all.
            if args.json:
                args.json.write_text(report.as_json(told, rows, extra))
    if args.markdown:
        args.markdown.write_text(report.markdown(told, rows, extra))
    if args.readme:
        report.update_readme(args.readme, rows)
    if args.baseline:
        args.baseline.write_text(report.as_json(told, rows, {}))
    missed = [row for row in rows if not row.reached]
    print(f"\n{len(rows) - len(missed)} of {len(rows)} goals reached")
    if args.check:
        worse = report.fallen(rows, BASELINE)
        print("\n".join(worse) or f"nothing fell by more than {report.MAY_FALL:.0%}")
        sys.exit(1 if worse else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, help="timed pairs of each row (7; quick: 3)")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), metavar="GROUP",
                        help=", ".join(GROUPS))  # fmt: skip
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="BLAS's, both sides")
    parser.add_argument("--data", type=Path, help="folder for the simulated runs, kept")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--from", dest="made_from", type=Path)
    for name in ("markdown", "readme", "baseline"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.repeats = args.repeats or (3 if args.quick else 7)
    return args


def _kernel(folder: Path, scratch: Path, repeats: int) -> Iterator[Any]:
    from benchmarks.kernels import kernel_rows

    return kernel_rows(repeats)


def _two_runs(name: str) -> Callable[[Path, Path, int], Iterator[Any]]:
    def rows(folder: Path, scratch: Path, repeats: int) -> Iterator[Any]:
        from benchmarks import two_runs

        return getattr(two_runs, name)(folder, scratch, repeats)  # type: ignore[no-any-return]

    return rows


def _runs(name: str) -> Callable[[Path, Path, int], Iterator[Any]]:
    def rows(folder: Path, scratch: Path, repeats: int) -> Iterator[Any]:
        from benchmarks import runs

        return getattr(runs, name)(folder, scratch, repeats)  # type: ignore[no-any-return]

    return rows


def _afni(folder: Path, scratch: Path, repeats: int) -> Iterator[Any]:
    from benchmarks.afni import afni_rows

    return afni_rows(folder, scratch, repeats)


def _study(folder: Path, scratch: Path, repeats: int) -> Iterator[Any]:
    from benchmarks.studies import study_rows

    return study_rows(folder, scratch, repeats)


GROUPS = {
    "kernel": _kernel,
    "warm": _two_runs("warm_rows"),
    "drop-in": _two_runs("drop_in_rows"),
    "contrast": _two_runs("contrast_rows"),
    "leave-one-out": _two_runs("leave_one_out_row"),
    "whole": _two_runs("whole_rows"),
    "medium": _runs("medium_rows"),
    "afni": _afni,
    "long": _runs("long_rows"),
    "large": _runs("large_rows"),
    "study": _study,
}
TAKE_MINUTES = {"long", "large", "study"}


def chosen(only: list[str] | None, *, quick: bool) -> list[str]:
    """Groups to measure: all, unless some are named or it must be quick."""
    return only or [name for name in GROUPS if not (quick and name in TAKE_MINUTES)]


def measure(
    args: argparse.Namespace,
    folder: Path,
    scratch: Path,
    show: Callable[[Any], None],
    extra: dict[str, str],
) -> None:
    """Measure what was asked for; growth and profile are added to `extra` as text."""
    import chunkglm as cg
    from benchmarks.rows import NotTheSameError

    warnings.simplefilter("ignore")
    cg.simulate_fiac(folder)
    for name in chosen(args.only, quick=args.quick):
        try:
            for row in GROUPS[name](folder, scratch, args.repeats):
                show(row)
        except NotTheSameError as error:
            sys.exit(str(error))
    if args.growth:
        from benchmarks.growth import growth

        extra["growth"] = growth(scratch)
        print(f"\n{extra['growth']}", flush=True)
    if args.profile:
        from benchmarks.profiles import profiles

        extra["where time goes"] = profiles(folder, scratch)
        print(f"\n{extra['where time goes']}", flush=True)


if __name__ == "__main__":
    main()
