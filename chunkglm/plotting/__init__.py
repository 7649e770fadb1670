"""Pictures of maps, designs, contrasts and chunks, and ``maps.glm``.

matplotlib and nilearn are imported when something is drawn. Only what is drawn is computed.
"""

from chunkglm.plotting.accessor import GlmAccessor
from chunkglm.plotting.chunks import plot_chunks
from chunkglm.plotting.designs import plot_contrast, plot_design
from chunkglm.plotting.maps import plot_stat_map
from chunkglm.plotting.montage import plot_montage
from chunkglm.plotting.runs import plot_runs

__all__ = [
    "GlmAccessor",
    "plot_chunks",
    "plot_contrast",
    "plot_design",
    "plot_montage",
    "plot_runs",
    "plot_stat_map",
]
