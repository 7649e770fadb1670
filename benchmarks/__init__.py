"""Measurements of chunkglm beside nilearn, run by ``scripts/benchmark.py``."""
