"""What a piece of work needs, as a value that can be shown and checked."""

from dataclasses import dataclass

from chunkglm.errors import MemoryLimitError
from chunkglm.glm.runs import parse_bytes
from chunkglm.glm.shown import amount, as_html, as_text


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """What a piece of work needs; made by `plan`. All sizes are in bytes, and upper bounds."""

    work: str  # what it is, for messages
    memory_bytes: int  # peak of each worker process that does all of it
    threads: int  # that are assumed to work at once in the process
    bytes_read: int
    bytes_written: int
    chunks: int  # reads of a run, or chunks of a store that are written
    tasks: int
    scratch_bytes: int  # disk for what is removed in the end
    disk_bytes: int  # disk for what stays
    way_out: str  # what to do where memory does not suffice

    def check(self, memory_limit: str | int) -> "Plan":
        """Refuse work that does not fit.

        Parameters
        ----------
        memory_limit : str or int
            Of one worker process, such as ``"2GB"``, or bytes.

        Returns
        -------
        Plan
            This one.

        Raises
        ------
        MemoryLimitError
            Naming what is needed, the limit, and the way out.
        """
        limit = parse_bytes(memory_limit)
        if self.memory_bytes > limit:
            msg = (
                f"{self.work}: needs {self.memory_bytes} bytes of memory with {self.threads} "
                f"threads, but the limit is {limit}; {self.way_out}"
            )
            raise MemoryLimitError(msg)
        return self

    def __repr__(self) -> str:
        """Show it as a small table."""
        return as_text(f"Plan, at most, to {self.work}", self._rows())

    def _repr_html_(self) -> str:
        return as_html("Plan, at most", {"work": self.work, **self._rows()})

    def _rows(self) -> dict[str, str]:
        return {
            "memory": f"{amount(self.memory_bytes)} a process, {self.threads} threads at work",
            "reads": f"{amount(self.bytes_read)} in {self.chunks} pieces",
            "writes": amount(self.bytes_written),
            "disk": f"{amount(self.disk_bytes)}, and {amount(self.scratch_bytes)} of scratch",
            "tasks": str(self.tasks),
        }
