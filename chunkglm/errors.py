"""Errors a user can act on: each message names the file, the cause, both values and the way out."""

import sys
import warnings
from types import FrameType


class ChunkglmError(Exception):
    """Base of every error chunkglm raises about its input; the command line exits with 2 on it."""


class ImageError(ChunkglmError, ValueError):
    """A NIfTI file or an image that cannot be used: truncated, corrupt, wrong shape or type."""


class MaskError(ChunkglmError, ValueError):
    """A mask that does not fit the run or is not a mask."""


class DesignError(ChunkglmError, ValueError):
    """A design matrix, events table or repetition time that cannot be used."""


class ContrastError(ChunkglmError, ValueError):
    """A contrast that cannot be read, or cannot be estimated under the design."""


class MapsError(ChunkglmError, ValueError):
    """Contrast maps that cannot be combined or read."""


class StoreError(ChunkglmError, ValueError):
    """A store that is incomplete, of another format, or in the way."""


class DownloadError(ChunkglmError, OSError):
    """A data set that could not be downloaded, or is not what it was."""


class MemoryLimitError(MemoryError, ChunkglmError):
    """Work that cannot fit the memory it was given."""


class ParameterError(ChunkglmError, ValueError):
    """A parameter that is not what it must be, or that cannot be honoured."""


class StudyError(ChunkglmError, ValueError):
    """A table of runs, a model or an output folder that a study cannot work with.

    Attributes
    ----------
    problems : tuple of str
        Each of them, with the row of the table it is in.
    """

    SHOWN = 50  # in the message

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems

    @classmethod
    def of(cls, source: str, problems: list[str]) -> "StudyError":
        """Make one error of many problems."""
        shown = "; ".join(problems[: cls.SHOWN])
        more = len(problems) - cls.SHOWN
        rest = f"; and {more} more" if more > 0 else ""
        count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
        return cls(f"{source}: {count}: {shown}{rest}", tuple(problems))


class ClusterError(ChunkglmError, RuntimeError):
    """A cluster that is gone: no scheduler, or no workers."""


def warn_user(message: str) -> None:
    """Warn at the line outside the package that led here, however deep below it is."""
    level = 2
    frame: FrameType | None = sys._getframe(1)  # the caller
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
