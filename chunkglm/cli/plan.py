"""``chunkglm plan``: what a command would read, write and hold, before it is run."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from chunkglm.glm.plans import Plan


def limited(command: click.decorators.FC) -> click.decorators.FC:
    """Give a command the options that all plans have."""
    command = click.option("--memory-limit", help='Exit with 2 if it needs more, such as "2GB".')(
        command
    )
    return click.option(
        "--threads", type=click.IntRange(min=1), help="At work at once; all cores by default."
    )(command)


@click.group()
def plan() -> None:
    """Tell what work needs before it is done; only headers and masks are read."""


@plan.command()
@click.argument("source")
@click.argument("store")
@limited
def convert(source: str, store: str, memory_limit: str | None, threads: int | None) -> None:
    """Converting SOURCE to STORE; under a limit, in blocks that fit it."""
    from chunkglm.glm.planning import plan_conversion

    show(plan_conversion(source, store, memory_limit, threads), memory_limit)


@plan.command()
@click.argument("run")
@click.argument("design", type=click.Path(path_type=Path))
@click.option("--mask", type=click.Path(path_type=Path), help="On the run's grid; all voxels else.")
@click.option("--noise", help='"ar1", "ar2" ..., "ar1, corrected" (default), or "ols".')
@click.option("--sample-mask", type=click.Path(path_type=Path),
              help="Volumes that count: a file of flags or indices, one a line.")  # fmt: skip
@click.option("--smoothing-fwhm", type=float, help="Gaussian smoothing, mm.")
@click.option("--t-r", type=float, help="Repetition time in seconds, in place of the header's.")
@limited
def fit(
    run: str, design: Path, mask: Path | None, noise: str | None, sample_mask: Path | None,
    smoothing_fwhm: float | None, t_r: float | None, memory_limit: str | None, threads: int | None,
) -> None:  # fmt: skip
    """Fitting RUN with DESIGN, and the maps of one contrast."""
    from chunkglm.glm import fit as fit_run
    from chunkglm.glm import open_run
    from chunkglm.glm.planning import plan as plan_work
    from chunkglm.kernels.noise import DEFAULT_NOISE

    fitted = fit_run(
        open_run(run, t_r=t_r), design, mask=mask,
        noise=DEFAULT_NOISE if noise is None else noise,
        smoothing_fwhm=smoothing_fwhm, sample_mask=sample_mask,
    )  # fmt: skip
    show(plan_work(fitted, threads=threads), memory_limit)


@plan.command("fixed-effects")
@click.argument("maps", nargs=-1, required=True, type=click.Path(path_type=Path))
@limited
def fixed_effects(maps: tuple[Path, ...], memory_limit: str | None, threads: int | None) -> None:
    """Combining the MAPS of several runs, each given as FOLDER/PREFIX of `chunkglm fit`."""
    from chunkglm.glm.planning import plan_saved

    show(plan_saved([(path.parent, path.name) for path in maps], threads=threads), memory_limit)


def show(found: "Plan", memory_limit: str | None) -> None:
    """Print a plan, then refuse it if it does not fit."""
    click.echo(repr(found))
    if memory_limit is not None:
        found.check(memory_limit)
