"""``python -m chunkglm`` is the command ``chunkglm``."""

from chunkglm.cli import start

start()
