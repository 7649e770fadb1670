"""Design matrices, events tables and contrasts: what a user writes, read and checked."""

from chunkglm.design._tables import check_repetition_time
from chunkglm.design.contrast import ContrastWeights, parse_contrast
from chunkglm.design.events import design_from_events
from chunkglm.design.matrix import Design, load_design

__all__ = [
    "ContrastWeights",
    "Design",
    "check_repetition_time",
    "design_from_events",
    "load_design",
    "parse_contrast",
]
