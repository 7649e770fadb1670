"""``chunkglm report``: results as pages to read."""

from pathlib import Path
from typing import Any

import click

from chunkglm.cli.thresholds import asks_threshold, threshold_arguments


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path),
              help="Page (.html), of a study the folder of its pages.")  # fmt: skip
@click.option("--subject", "subjects", multiple=True, help="Of a study, only this one; repeatable.")
@click.option("--background", type=click.Path(path_type=Path),
              help="Image to draw maps on, on their grid; not of a study.")  # fmt: skip
@click.option("--title", help="Of the page.")
@asks_threshold
@click.option("--quiet", is_flag=True, help="No progress.")
def report(
    results: Path, to: Path | None, subjects: tuple[str, ...], background: Path | None,
    title: str | None, quiet: bool, **height: Any,
) -> None:  # fmt: skip
    """Write pages about RESULTS: the folder of a study, or FOLDER/PREFIX of maps.

    Of a study a page for each subject and an index, in RESULTS/report; pages of subjects that did
    not change are kept. Of the maps of `chunkglm fit` or `fixed-effects` one page, PREFIX.html.
    """
    from chunkglm.glm import open_maps
    from chunkglm.glm.sidecars import opened_by
    from chunkglm.reporting import report as write_report

    maps: Any = results
    prefix = results.name.partition("_stat-")[0]
    if results.with_name(opened_by(prefix)).exists():
        maps = open_maps(results.parent, prefix=prefix)
        to = results.with_name(f"{prefix}.html") if to is None else to
    path = write_report(
        maps, to, background=background, title=title, subjects=subjects or None,
        progress=not quiet, **threshold_arguments(**height),
    )  # fmt: skip
    click.echo(path)
