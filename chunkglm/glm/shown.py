"""How values show themselves, as text and in notebooks; nothing is computed for it."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import xarray as xr

from chunkglm.lazy.moments import passes_in

if TYPE_CHECKING:
    from chunkglm.glm.fitted import Fit

_CELL = "padding:0.1em 0.8em 0.1em 0;text-align:left;vertical-align:top;background:none"
_NAME = "font-weight:600;white-space:nowrap"


def as_text(title: str, rows: Mapping[str, str]) -> str:
    """Return a title and a line for each row, names in a column.

    Examples
    --------
    >>> print(as_text("Plan", {"memory": "2 GB", "reads": "1 GB"}))
    <chunkglm.Plan
      memory  2 GB
      reads   1 GB>
    """
    width = max(map(len, rows)) + 2
    lines = "".join(f"\n  {name:<{width}}{value}" for name, value in rows.items())
    return f"<chunkglm.{title}{lines}>"


def as_html(title: str, rows: Mapping[str, str], more: Mapping[str, str] | None = None) -> str:
    """Return the same as a table; what is `more` is folded away until it is asked for.

    Everything is escaped. The styles are the table's own, so that it looks alike in every notebook.

    Examples
    --------
    >>> "<th" in as_html("Plan", {"memory": "< 2 GB"}), "&lt; 2 GB" in as_html("", {"m": "< 2 GB"})
    (True, True)
    """
    folded = "".join(
        f'<details style="margin:0.2em 0"><summary>{escape(name)}</summary>'
        f'<div style="padding-left:1.2em">{escape(value)}</div></details>'
        for name, value in (more or {}).items()
    )
    cells = "".join(
        f'<tr style="background:none"><th style="{_CELL};{_NAME}">{escape(name)}</th>'
        f'<td style="{_CELL}">{escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    return (
        '<div style="border-left:3px solid #1f77b4;padding-left:0.8em;margin:0.3em 0">'
        f"<div><b>chunkglm.{escape(title)}</b></div>"
        f'<table style="border-collapse:collapse;margin:0.2em 0">{cells}</table>{folded}</div>'
    )


def state_of(data: xr.Dataset | xr.DataArray) -> str:
    """Say whether arrays are computed, and what computing them would take."""
    lazy: Any = data
    graph = lazy.__dask_graph__()
    if graph is None:
        return "in memory"
    if not hasattr(graph, "layers"):
        return "lazy"
    runs = len({one.source.token if one.source else "" for one in passes_in(graph)})
    if not runs:
        return "lazy: computing reads no run"
    return f"lazy: computing reads {'the run' if runs == 1 else f'{runs} runs'}"


def chunks_of(data: xr.Dataset | xr.DataArray) -> str:
    """Tell the number of chunks, and how large they are at most; nothing of what is in memory."""
    arrays = [data] if isinstance(data, xr.DataArray) else list(data.data_vars.values())
    lazy = [a.data for a in arrays if a.chunks is not None]
    if not lazy:
        return ""
    largest = max(_largest(a.chunks, a.dtype.itemsize) for a in lazy)
    count = max(a.npartitions for a in lazy)
    return f"{count} a map, {amount(largest)} at most"


def amount(n_bytes: int) -> str:
    """Bytes as a person reads them, rounded up.

    Examples
    --------
    >>> amount(0), amount(1200), amount(123_400_001), amount(4_210_000_000)
    ('0 B', '2 kB', '124 MB', '4.3 GB')
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 1000)):
        if n_bytes >= size:
            tenths = -(-n_bytes * 10 // size)
            return f"{tenths / 10:.1f} {unit}" if unit == "GB" else f"{-(-n_bytes // size)} {unit}"
    return f"{n_bytes} B"


def text_of_fit(fit: "Fit") -> str:
    """What a fit holds and whether it is computed."""
    n_voxels = sum(fit.slabs.voxel_chunks)
    shape = " x ".join(str(n) for n in fit.slabs.mask.shape)
    return (
        f"<chunkglm.Fit of {fit.dataset.attrs['run']}\n"
        f"  {n_voxels} voxels of {shape}, {_volumes_of(fit)}, "
        f"{len(fit.design.names)} regressors, {fit.dof} degrees of freedom\n"
        f"  noise {fit.noise}, scaling {fit.scaling}, smoothing "
        f"{fit.dataset.attrs['smoothing_fwhm'] or 0} mm\n"
        f"  moments {fit.dataset.nbytes / 1e6:.1f} MB in {len(fit.slabs.voxel_chunks)} "
        f"chunks, {state_of(fit.dataset)}>"
    )


def html_of_fit(fit: "Fit") -> str:
    """Return the same as a table."""
    n_chunks = len(fit.slabs.voxel_chunks)
    shape = " × ".join(str(n) for n in fit.slabs.mask.shape)
    signal = "percent of each voxel's mean" if fit.scaling == "percent" else "as it is"
    fwhm = fit.dataset.attrs["smoothing_fwhm"]
    rows = {
        "run": f"{fit.dataset.attrs['run']}: {_volumes_of(fit)}",
        "voxels": f"{sum(fit.slabs.voxel_chunks)} of {shape}",
        "design": f"{len(fit.design.names)} regressors, {fit.dof} degrees of freedom",
        "noise": str(fit.noise),
        "signal": f"{signal}, {f'smoothed by {fwhm:g} mm' if fwhm else 'not smoothed'}",
        "moments": f"{amount(fit.dataset.nbytes)} in {n_chunks} chunks",
        "a map of it": amount(8 * fit.slabs.mask.size),
        "state": state_of(fit.dataset),
    }
    return as_html("Fit", rows, {"regressors": ", ".join(fit.design.names)})


def _volumes_of(fit: "Fit") -> str:
    segments = fit.factor.segments
    volumes = f"{segments.n_volumes} volumes"
    if segments.n_kept < segments.n_volumes:
        volumes += f" ({segments.n_kept} kept, in {segments.n_segments} segments)"
    return volumes


def _largest(chunks: Iterable[tuple[int, ...]], itemsize: int) -> int:
    size = itemsize
    for along in chunks:
        size *= max(along)
    return size
