"""What commands ask about a threshold of maps."""

from collections.abc import Callable
from typing import Any

import click

_OPTIONS = (
    click.option("--alpha", type=float, default=0.001, show_default=True,
                 help="Rate of false positives, of false discoveries, or of any at all."),
    click.option("--height-control", type=click.Choice(["fpr", "fdr", "bonferroni"]),
                 default="fpr", show_default=True, help="What --alpha is the rate of."),
    click.option("--height", type=float, help="z from which voxels survive, in place of --alpha."),
    click.option("--cluster-threshold", type=float, default=0, show_default=True,
                 help="Clusters of fewer voxels are dropped."),
    click.option("--one-sided", is_flag=True, help="The upper tail only; always for F maps."),
)  # fmt: skip


def asks_threshold(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a threshold; `threshold_arguments` takes their values."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def threshold_arguments(
    *, alpha: float, height_control: str, height: float | None, cluster_threshold: float,
    one_sided: bool,
) -> dict[str, Any]:  # fmt: skip
    """Say the options' values in the words of `chunkglm.threshold`."""
    return {
        "alpha": alpha,
        "height_control": height_control if height is None else None,
        "threshold": height,
        "cluster_threshold": cluster_threshold,
        "two_sided": False if one_sided else None,
    }
