"""Pictures of maps, designs, contrasts and chunks, and ``maps.glm``.

matplotlib and nilearn are imported when something is drawn. Only what is drawn is computed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from chunkglm.plotting.accessor import GlmAccessor

if TYPE_CHECKING:
    from chunkglm.plotting.chunks import plot_chunks
    from chunkglm.plotting.designs import plot_contrast, plot_design
    from chunkglm.plotting.maps import plot_stat_map
    from chunkglm.plotting.montage import plot_montage
    from chunkglm.plotting.runs import plot_runs

# Loaded when first used: every fit registers `maps.glm`, and few draw.
_HOME = {
    "plot_chunks": "chunks",
    "plot_contrast": "designs",
    "plot_design": "designs",
    "plot_montage": "montage",
    "plot_runs": "runs",
    "plot_stat_map": "maps",
}

__all__ = [
    "GlmAccessor",
    "plot_chunks",
    "plot_contrast",
    "plot_design",
    "plot_montage",
    "plot_runs",
    "plot_stat_map",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used."""
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found
    return found
