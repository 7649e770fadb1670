"""Pictures of results."""

from chunkglm.report.montage import plot_montage

__all__ = ["plot_montage"]
