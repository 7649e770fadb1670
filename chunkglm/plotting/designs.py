"""Design matrices and contrasts, drawn with nilearn."""

from typing import Any

import numpy as np
import pandas as pd

from chunkglm._types import BoolArray, FloatArray
from chunkglm.design import Design, load_design, named_contrasts, parse_contrast
from chunkglm.glm import Fit

_DROPPED = "#d62728"


def plot_design(design: Any, **options: Any) -> Any:
    """Draw a design matrix with nilearn's ``plot_design_matrix``; nothing is computed.

    Parameters
    ----------
    design : Fit, or a design as `fit` takes it
        Of a fit, its own; volumes that its `sample_mask` dropped are marked on the left. A table of
        events is no matrix yet: `design_from_events`.
    **options
        As nilearn takes them: ``rescale``, ``axes``, ``output_file``.

    Returns
    -------
    matplotlib.axes.Axes
        None with ``output_file``.

    Raises
    ------
    DesignError
        When it cannot be read as a design.
    """
    from nilearn.plotting import plot_design_matrix

    loaded = _design_of(design)
    output = options.pop("output_file", None)
    options.setdefault("axes", _new_axes(0.35 * loaded.n_regressors + 1.2, 4.8))
    axes = plot_design_matrix(_table(loaded), **options)
    if isinstance(design, Fit):
        _mark_dropped(axes, loaded, design.sample_mask)
    return _kept_or_written(axes, output)


def plot_contrast(design: Any, definition: Any, **options: Any) -> Any:
    """Draw the weights of a contrast, or of several, with nilearn's ``plot_contrast_matrix``.

    Parameters
    ----------
    design : Fit, or a design as `fit` takes it
        Which names the columns.
    definition : str, vector, matrix, list of str, or dict
        As `contrast` takes it: parsed, never evaluated. Of several by name each row has its name.
    **options
        As nilearn takes them: ``colorbar``, ``axes``, ``output_file``.

    Returns
    -------
    matplotlib.axes.Axes
        None with ``output_file``.

    Raises
    ------
    DesignError, ContrastError
        When the design or the contrast cannot be read.
    """
    from nilearn.plotting import plot_contrast_matrix

    loaded = _design_of(design)
    named = named_contrasts(definition) or {"": definition}
    rows: list[FloatArray] = []
    labels: list[str] = []
    for name, one in named.items():
        parsed = parse_contrast(one, loaded.names, source=loaded.source)
        rows.extend(parsed.weights)
        numbered = [f" {i + 1}" for i in range(len(parsed.weights))]
        labels += [name + n for n in numbered] if len(numbered) > 1 else [name]
    output = options.pop("output_file", None)
    size = 0.35 * loaded.n_regressors + 1.8, 0.3 * len(rows) + 1.2
    options.setdefault("axes", _new_axes(*size))
    axes = plot_contrast_matrix(np.array(rows), _table(loaded), **options)
    if any(labels):
        axes.set_yticks(range(len(labels)), labels)
    return _kept_or_written(axes, output)


def _design_of(design: Any) -> Design:
    return design.design if isinstance(design, Fit) else load_design(design)


def _table(design: Design) -> pd.DataFrame:
    return pd.DataFrame(design.values, columns=list(design.names))


def _mark_dropped(axes: Any, design: Design, keep: BoolArray) -> None:
    """Mark volumes that do not count, where the design has rows for them."""
    if len(keep) != design.n_scans or keep.all():
        return
    rows = np.flatnonzero(~keep)
    axes.hlines(rows, -0.5, design.n_regressors - 0.5, colors=_DROPPED, linewidths=0.8)
    axes.set_ylabel(f"{axes.get_ylabel()} ({len(rows)} dropped, red)".strip())


def _new_axes(wide: float, tall: float) -> Any:
    """Inches; nilearn's own designs are ten high."""
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(max(wide, 3.0), tall), layout="constrained")[1]


def _kept_or_written(axes: Any, output_file: Any) -> Any:
    """Leave the figure to be shown, or write it and be done with it."""
    if output_file is None:
        return axes
    import matplotlib.pyplot as plt

    figure = axes.get_figure()
    figure.savefig(output_file)
    plt.close(figure)
    return None
