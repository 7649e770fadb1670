"""``chunkglm run`` and ``chunkglm finalise``: the job of a whole data set."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from chunkglm.errors import StudyError

# Some subjects failed, the others are done.
EXIT_INCOMPLETE = 3


def _partition(_: Any, __: Any, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    i, _slash, n = text.partition("/")
    if not (i.isdigit() and n.isdigit() and int(i) < int(n)):
        raise click.BadParameter(f"must be I/N with I from 0 to N - 1, but is {text!r}")
    return int(i), int(n)


@click.command()
@click.argument("table", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--workers", type=click.IntRange(min=1), help="Processes on this machine.")
@click.option("--memory-limit", help='Of each process, such as "2GB".')
@click.option("--threads", type=click.IntRange(min=1), help="Threads, where there are no workers.")
@click.option("--scheduler", help="Address of a dask.distributed cluster to work on.")
@click.option("--partition", callback=_partition, metavar="I/N",
              help="Only part I (from 0) of N; then chunkglm finalise.")  # fmt: skip
@click.option("--no-resume", is_flag=True, help="Do everything again.")
@click.option("--quiet", is_flag=True, help="No progress.")
def run(
    table: Path, model: Path, out: Path, workers: int | None, memory_limit: str | None,
    threads: int | None, scheduler: str | None, partition: tuple[int, int] | None,
    no_resume: bool, quiet: bool,
) -> None:  # fmt: skip
    """Fit every run of TABLE as MODEL says and write each subject's fixed effects to OUT.

    Run again, it does only what is missing, changed or failed. Exits with 3 when subjects failed.
    """
    from chunkglm.study import run_study

    if workers and scheduler:
        msg = "--workers starts a cluster here and --scheduler names another; give one of them"
        raise StudyError(msg)
    with _client(workers, memory_limit, scheduler) as client:
        report = run_study(
            table, model, out, client=client, resume=not no_resume, partition=partition,
            threads=threads, memory_limit=memory_limit, progress=not quiet,
        )  # fmt: skip
    click.echo(repr(report))
    if report.failed:
        sys.exit(EXIT_INCOMPLETE)


def _client(workers: int | None, memory_limit: str | None, scheduler: str | None) -> Any:
    from chunkglm.study.engines import connected, local_cluster

    if workers:
        return local_cluster(workers, memory_limit)
    return connected(scheduler) if scheduler else nullcontext()


@click.command()
@click.argument("table", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def finalise(table: Path, model: Path, out: Path) -> None:
    """Complete OUT when all parts of a study are done; names what is missing."""
    from chunkglm.study import finalise as finish

    failed = finish(table, model, out)
    click.echo(f"{out}: complete, {len(failed)} subjects failed")
    for subject, reason in failed.items():
        click.echo(f"  sub-{subject}: {reason}")
    if failed:
        sys.exit(EXIT_INCOMPLETE)
