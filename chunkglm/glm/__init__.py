"""Fit, contrast, fixed effects: labelled and lazy, in and out."""

from chunkglm.glm.contrasts import contrast
from chunkglm.glm.fixed import fixed_effects
from chunkglm.glm.maps import open_maps, save
from chunkglm.glm.model import Fit, fit
from chunkglm.glm.runs import convert, open_run

__all__ = ["Fit", "contrast", "convert", "fit", "fixed_effects", "open_maps", "open_run", "save"]
