"""Arithmetic on arrays: numpy and scipy only, no chunks, labels or files."""
