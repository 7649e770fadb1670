"""Pictures of maps, designs, contrasts and chunks, and ``maps.glm``.

matplotlib and nilearn are imported when something is drawn. Only what is drawn is computed.
"""

from typing import TYPE_CHECKING

from chunkglm._lazily import imported_when_used
from chunkglm.plotting.accessor import GlmAccessor

if TYPE_CHECKING:
    from chunkglm.plotting.chunks import plot_chunks
    from chunkglm.plotting.designs import plot_contrast, plot_design
    from chunkglm.plotting.maps import plot_stat_map
    from chunkglm.plotting.montage import plot_montage
    from chunkglm.plotting.runs import plot_runs

# Loaded when first used: every fit registers `maps.glm`, and few draw.
_HOME = {
    "plot_chunks": "chunkglm.plotting.chunks",
    "plot_contrast": "chunkglm.plotting.designs",
    "plot_design": "chunkglm.plotting.designs",
    "plot_montage": "chunkglm.plotting.montage",
    "plot_runs": "chunkglm.plotting.runs",
    "plot_stat_map": "chunkglm.plotting.maps",
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

__getattr__ = imported_when_used(__name__, _HOME)
