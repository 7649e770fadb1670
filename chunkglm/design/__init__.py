"""Design matrices, events tables and contrasts: what a user writes, read and checked."""

from chunkglm.design._messages import list_names, told_relations
from chunkglm.design._tables import check_repetition_time
from chunkglm.design.confounds import load_confounds, sample_mask_from_confounds
from chunkglm.design.contrast import ContrastWeights, named_contrasts, parse_contrast
from chunkglm.design.events import design_from_events
from chunkglm.design.matrix import Design, load_design
from chunkglm.design.sample_mask import load_sample_mask

__all__ = [
    "ContrastWeights",
    "Design",
    "check_repetition_time",
    "design_from_events",
    "list_names",
    "load_confounds",
    "load_design",
    "load_sample_mask",
    "named_contrasts",
    "parse_contrast",
    "sample_mask_from_confounds",
    "told_relations",
]
