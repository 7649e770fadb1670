"""Stands for dask-jobqueue where there is no SLURM: its jobs are processes of this machine."""

from typing import Any

from distributed import LocalCluster


class SLURMCluster(LocalCluster):
    """With the arguments of the real one that pages use; a job is one worker here."""

    def __init__(
        self, *, cores: int, processes: int, memory: str, walltime: str,
        job_script_prologue: list[str] | None = None, worker_extra_args: list[str] | None = None,
    ) -> None:  # fmt: skip
        assert cores >= processes
        assert all(isinstance(a, str) for a in [memory, walltime, *(job_script_prologue or [])])
        assert len(worker_extra_args or []) % 2 == 0
        super().__init__(n_workers=0, threads_per_worker=1, dashboard_address="127.0.0.1:0")

    def scale(self, n: int | None = None, *, jobs: int | None = None) -> Any:
        wanted = jobs if n is None else n  # dask itself asks for 0, when it closes a cluster
        assert wanted is not None
        return super().scale(min(wanted, 2))

    def adapt(self, *, minimum_jobs: int, maximum_jobs: int) -> Any:
        assert minimum_jobs >= 1, "without one nothing starts, and waiting for a worker never ends"
        return super().scale(min(maximum_jobs, 2))
