"""``python -m chunkglm`` is the command ``chunkglm``."""

from chunkglm.cli import main

main(prog_name="chunkglm")
