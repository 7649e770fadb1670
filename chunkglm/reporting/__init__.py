"""Results as pages to read: one file each, that holds all it shows."""

from chunkglm.reporting.write import report

__all__ = ["report"]
