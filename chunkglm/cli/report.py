"""``chunkglm report``: results as pages to read."""

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path),
              help="Page (.html), of a study the folder of its pages.")  # fmt: skip
@click.option("--subject", "subjects", multiple=True, help="Of a study, only this one; repeatable.")
@click.option("--background", type=click.Path(path_type=Path),
              help="Image to draw maps on, on their grid; not of a study.")  # fmt: skip
@click.option("--title", help="Of the page.")
@click.option("--alpha", type=float, default=0.001, show_default=True,
              help="Rate of false positives, of false discoveries, or of any at all.")  # fmt: skip
@click.option("--height-control", type=click.Choice(["fpr", "fdr", "bonferroni"]), default="fpr",
              show_default=True, help="What --alpha is the rate of.")  # fmt: skip
@click.option("--height", type=float, help="z from which voxels survive, in place of --alpha.")
@click.option("--cluster-threshold", type=float, default=0, show_default=True,
              help="Clusters of fewer voxels are dropped.")  # fmt: skip
@click.option("--one-sided", is_flag=True, help="The upper tail only; always for F maps.")
@click.option("--quiet", is_flag=True, help="No progress.")
def report(
    results: Path, to: Path | None, subjects: tuple[str, ...], background: Path | None,
    title: str | None, alpha: float, height_control: Any, height: float | None,
    cluster_threshold: float, one_sided: bool, quiet: bool,
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
        maps, to, background=background, title=title, alpha=alpha,
        height_control=height_control if height is None else None, threshold=height,
        cluster_threshold=cluster_threshold, two_sided=False if one_sided else None,
        subjects=subjects or None, progress=not quiet,
    )  # fmt: skip
    click.echo(path)
