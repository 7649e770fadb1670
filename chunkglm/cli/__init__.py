"""The command ``chunkglm``."""

from chunkglm.cli.commands import main

__all__ = ["main"]
