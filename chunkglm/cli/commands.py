"""The commands, one function each; what they do is in the layers below."""

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from chunkglm.cli.plan import plan
from chunkglm.cli.report import report
from chunkglm.cli.study import finalise, run
from chunkglm.cli.thresholds import asks_threshold, threshold_arguments
from chunkglm.errors import ChunkglmError, MapsError

EXIT_BAD_INPUT = 2
EXIT_ALTERED = 1


class _OneLineErrors(click.Group):
    """Shows bad input as one line on standard error, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; exit with 2 on bad input."""
        try:
            return super().invoke(ctx)
        except ChunkglmError as error:
            message = " ".join(str(error).split())
            click.echo(f"chunkglm: error: {message}", err=True)
            sys.exit(EXIT_BAD_INPUT)


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    click.echo(f"chunkglm: warning: {' '.join(str(message).split())}", err=True)


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="chunkglm")
def main() -> None:
    """Out-of-core, parallel GLM for task fMRI."""
    warnings.showwarning = _show_warning


for command in (finalise, plan, report, run):
    main.add_command(command)


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("chunkglm-demo"),
              show_default=True, help="Folder for data, stores, maps and pictures.")  # fmt: skip
@click.option("--fiac", is_flag=True, help="Download the real FIAC runs instead of simulating.")
def demo(out: Path, fiac: bool) -> None:
    """Fixed effects of two runs, start to end, on data made on the spot."""
    from chunkglm.cli.demo import run_demo

    run_demo(out, fiac=fiac)


@main.command()
@click.argument("source")
@click.argument("store")
@click.option("--overwrite", is_flag=True, help="Replace a store of that name once it is whole.")
@click.option("--memory-limit", help='Ceiling such as "500MB".')
@click.option("--quiet", is_flag=True, help="No progress bar.")
def convert(
    source: str, store: str, overwrite: bool, memory_limit: str | None, quiet: bool
) -> None:
    """Convert a NIfTI run SOURCE to a chunked zarr STORE."""
    from chunkglm.glm import convert as convert_run

    path = convert_run(
        source, store, overwrite=overwrite, memory_limit=memory_limit, progress=not quiet
    )
    click.echo(path)


@main.command()
@click.argument("store")
def verify(store: str) -> None:
    """Compare a STORE, or the results of a study, with what was written; exit with 1 if it differs.

    Of a study, its inputs are compared too.
    """
    from chunkglm.glm import verify as verify_store
    from chunkglm.study import verify_study
    from chunkglm.study.finish import is_study

    wrong = verify_study(store) if is_study(store) else verify_store(store)
    for line in wrong:
        click.echo(line)
    if wrong:
        sys.exit(EXIT_ALTERED)
    click.echo(f"{store}: as it was written")


@main.command()
@click.argument("store")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace a file of that name.")
def export(store: str, path: Path, overwrite: bool) -> None:
    """Turn a run's STORE back into the NIfTI file it was made from, byte for byte."""
    from chunkglm.glm import export_nifti

    click.echo(export_nifti(store, path, overwrite=overwrite))


@main.command()
@click.argument("run")
@click.argument("design", type=click.Path(path_type=Path))
@click.option("--contrast", "definition", required=True,
              help='Expression of column names, such as "face - house".')  # fmt: skip
@click.option("--mask", type=click.Path(path_type=Path), help="On the run's grid; all voxels else.")
@click.option("--noise", help='"ar1", "ar2" ..., "ar1, corrected", or "ols"; by default corrected, '
              "but not with --bins or --iterations.")  # fmt: skip
@click.option("--bins", type=int, help="Truncate the AR(1) coefficient to 1/BINS, as nilearn does.")
@click.option(
    "--stationary",
    is_flag=True,
    help="Weigh the first samples by the exact precision of a stationary process.",
)
@click.option(
    "--iterations",
    type=int,
    default=1,
    show_default=True,
    help="Passes in which the noise is estimated.",
)
@click.option("--sample-mask", type=click.Path(path_type=Path),
              help="Volumes that count: a file of flags or indices, one a line.")  # fmt: skip
@click.option("--smoothing-fwhm", type=float, help="Gaussian smoothing, mm.")
@click.option("--scaling", type=click.Choice(["percent", "none"]), default="percent",
              show_default=True, help="Percent of the voxel's mean, or as it is.")  # fmt: skip
@click.option("--t-r", type=float, help="Repetition time in seconds, in place of the header's.")
@click.option("--stat-type", type=click.Choice(["t", "F"]), help="By default t for one row.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the maps.")
@click.option("--prefix", required=True, help="Beginning of the maps' names.")
def fit(
    run: str, design: Path, definition: str, mask: Path | None, noise: str | None, bins: int | None,
    stationary: bool, iterations: int, sample_mask: Path | None, smoothing_fwhm: float | None,
    scaling: str, t_r: float | None, stat_type: Any, out: Path, prefix: str,
) -> None:  # fmt: skip
    """Fit RUN (NIfTI or store) with DESIGN (csv, tsv, npz, events); write a contrast's maps."""
    from chunkglm.glm import contrast, open_run, save
    from chunkglm.glm import fit as fit_run
    from chunkglm.kernels.noise import AR, DEFAULT_NOISE, parse_noise

    # The coefficient of nilearn, or of a second pass, is not the corrected one.
    default = DEFAULT_NOISE if bins is None and iterations == 1 else AR(1)
    model = replace(
        default if noise is None else parse_noise(noise), bins=bins, iterations=iterations,
        initial="stationary" if stationary else "conditional",
    )  # fmt: skip
    fitted = fit_run(
        open_run(run, t_r=t_r), design, mask=mask, noise=model, smoothing_fwhm=smoothing_fwhm,
        scaling=None if scaling == "none" else scaling, sample_mask=sample_mask,
    )  # fmt: skip
    for path in save(contrast(fitted, definition, stat_type=stat_type), out, prefix=prefix):
        click.echo(path)


@main.command("fixed-effects")
@click.argument("maps", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--precision-weighted", is_flag=True, help="Weigh runs by inverse variance.")
@click.option("--drop", multiple=True, type=click.Path(path_type=Path),
              help="FOLDER/PREFIX of a run to take out of MAPS that hold it.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the maps.")
@click.option("--prefix", required=True, help="Beginning of the maps' names.")
def fixed_effects(
    maps: tuple[Path, ...], precision_weighted: bool, drop: tuple[Path, ...], out: Path,
    prefix: str,
) -> None:  # fmt: skip
    """Combine the MAPS of several runs, each given as FOLDER/PREFIX of `chunkglm fit`.

    MAPS that are combined already can be given too, to add runs to them or, with --drop, to take
    runs out.
    """
    from chunkglm.glm import drop_runs, open_maps, save
    from chunkglm.glm import fixed_effects as combine

    combined, dropped = _sets(maps), _sets(drop)
    every = [*combined, *dropped]
    if (out.resolve(), prefix) in {(path.parent.resolve(), path.name) for path in every}:
        msg = f"{out / prefix}: is one of the maps to be combined; choose another --prefix"
        raise MapsError(msg)
    runs = [open_maps(path.parent, prefix=path.name) for path in every]
    pooled = combine(runs[: len(combined)], precision_weighted=precision_weighted)
    if drop:
        pooled = drop_runs(pooled, runs[len(combined) :])
    for path in save(pooled, out, prefix=prefix):
        click.echo(path)


def _sets(paths: tuple[Path, ...]) -> list[Path]:
    """FOLDER/PREFIX of maps: a file means its whole set, and ten files of a set mean it once."""
    found: list[Path] = []
    for path in paths:
        prefix, is_file, _ = path.name.partition("_stat-")
        whole = path.with_name(prefix)
        if not (is_file and whole in found):
            found.append(whole)
    return found


@main.command()
@click.argument("maps", type=click.Path(path_type=Path))
@asks_threshold
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the maps.")
@click.option("--prefix", required=True, help="Beginning of the maps' names.")
def threshold(maps: Path, out: Path, prefix: str, **height: Any) -> None:
    """Threshold MAPS, given as FOLDER/PREFIX of `chunkglm fit` or `fixed-effects`.

    Writes the thresholded z map, a map of its clusters, and their table.
    """
    from chunkglm.glm import open_maps, save
    from chunkglm.glm.thresholding import threshold as threshold_maps

    opened = open_maps(maps.parent, prefix=maps.name.partition("_stat-")[0])
    found = threshold_maps(opened, **threshold_arguments(**height))
    for path in save(found, out, prefix=prefix):
        click.echo(path)
