"""Many runs: tables in, maps of every subject out."""

from chunkglm.study.find import find_runs
from chunkglm.study.finish import finalise, verify_study
from chunkglm.study.model import StudyModel
from chunkglm.study.run import StudyReport, run_study

__all__ = ["StudyModel", "StudyReport", "finalise", "find_runs", "run_study", "verify_study"]
