"""Pictures of maps, designs, contrasts and chunks."""

from chunkglm.plotting.montage import plot_montage

__all__ = ["plot_montage"]
