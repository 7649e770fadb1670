"""Where jobs are done: threads of this process, or a dask.distributed cluster."""

import math
import os
import queue
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from chunkglm.errors import ClusterError
from chunkglm.glm.runs import parse_bytes

# A cluster without a worker is given this long to get one; distributed itself waits for ever.
NO_WORKERS_SECONDS = 25.0

# A scheduler is given this long to answer.
CONNECT_SECONDS = 10.0

# Between two looks at a cluster's health.
HEALTH_SECONDS = 1.0


class Engine(Protocol):
    """Does jobs."""

    @property
    def n_threads(self) -> int:
        """Jobs that it does at once."""

    @property
    def worker(self) -> tuple[int | None, int]:
        """Bytes of memory (None where there is no limit) and threads of its tightest worker."""

    @property
    def job_seconds(self) -> float:
        """How long a job should take, that handing it out is little beside it."""

    def submit(
        self, kind: str, label: str, job: Callable[..., Any], *args: Any, priority: int = 0
    ) -> Any:
        """Begin a job; among its arguments may be futures, alone or in lists."""

    def wait(self, futures: Collection[Any], seconds: float) -> set[Any]:
        """Futures that are done, as soon as one is; none after some seconds."""

    def result(self, future: Any) -> Any:
        """What a job returned; `WorkerLostError` where it took its workers with it."""

    def argument(self, future: Any) -> Any:
        """What to hand to another job in place of a result."""


class WorkerLostError(Exception):
    """A job after whose start workers died, again and again."""


class LocalEngine:
    """Threads of this process."""

    job_seconds = 0.0

    def __init__(self, n_threads: int | None = None, memory_limit: int | None = None) -> None:
        self._n = n_threads or os.cpu_count() or 1
        self._limit = memory_limit
        self._pool = ThreadPoolExecutor(self._n)

    @property
    def worker(self) -> tuple[int | None, int]:
        """Memory and threads of this process."""
        return self._limit, self._n

    @property
    def n_threads(self) -> int:
        """Jobs that it does at once."""
        return self._n

    def submit(
        self, kind: str, label: str, job: Callable[..., Any], *args: Any, priority: int = 0
    ) -> Future[Any]:
        """Begin a job, in turn: few wait."""
        return self._pool.submit(job, *args)

    def wait(self, futures: Collection[Any], seconds: float) -> set[Any]:
        """Futures that are done, as soon as one is; none after some seconds."""
        return wait_for(futures, timeout=seconds, return_when=FIRST_COMPLETED).done

    def result(self, future: Any) -> Any:
        """What a job returned."""
        return future.result()

    def argument(self, future: Any) -> Any:
        """Hand results over as they are."""
        return future.result()

    def close(self) -> None:
        """End; what has not begun is dropped."""
        self._pool.shutdown(cancel_futures=True)


class ClusterEngine:
    """A dask.distributed cluster, whatever made it; told apart from one that is gone."""

    job_seconds = 1.0

    def __init__(self, client: Any, memory_limit: int | None = None) -> None:
        self._client = client
        self._limit = memory_limit
        self._address = str(client.scheduler.address)
        self._healthy = time.monotonic()
        self._looked = -math.inf
        self._n_threads = 0
        # That a job is done, not which: what holds a future holds its result.
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()

    @property
    def n_threads(self) -> int:
        """Jobs that it does at once; more once workers come."""
        self._check_health()
        return max(1, self._n_threads)

    @property
    def worker(self) -> tuple[int | None, int]:
        """Memory and threads of the worker with the least memory for each thread."""
        with self._reached():
            workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        found = [(self._limit or w["memory_limit"] or None, int(w["nthreads"])) for w in workers]
        limited = [(int(limit), n) for limit, n in found if limit]
        return min(limited, key=lambda one: one[0] / one[1]) if limited else (self._limit, 1)

    def submit(
        self, kind: str, label: str, job: Callable[..., Any], *args: Any, priority: int = 0
    ) -> Any:
        """Begin a job under a name that says what it is, on dask's dashboard and in its errors."""
        with self._reached():
            # The kind first: what a scheduler learns of jobs, it learns and keeps by that.
            key = (kind, label, uuid.uuid4().hex)
            future = self._client.submit(job, *args, key=key, pure=False, priority=priority)
            news = self._news
            future.add_done_callback(lambda _: news.put(None))
            return future

    def wait(self, futures: Collection[Any], seconds: float) -> set[Any]:
        """Futures that are done, as soon as one is; none after some seconds."""
        end = time.monotonic() + seconds
        while True:
            done = {f for f in futures if f.done()}
            left = end - time.monotonic()
            if done or left < 0:
                return done
            self._check_health()
            # To be told costs the client a tenth of what asking for each of the futures does.
            with suppress(queue.Empty):
                self._news.get(timeout=min(HEALTH_SECONDS, max(0.01, left)))

    def result(self, future: Any) -> Any:
        """What a job returned."""
        from distributed import KilledWorker

        while True:
            if future.status in ("cancelled", "lost"):
                raise ClusterError(self._gone())
            try:
                with self._reached():
                    return future.result(timeout=HEALTH_SECONDS)
            except KilledWorker as error:
                raise WorkerLostError(str(error)) from error
            except TimeoutError:
                # The worker that held it has died since; another does the job again, if there is
                # one.
                self._check_health()

    def argument(self, future: Any) -> Any:
        """Results stay on the workers that made them."""
        if future.status == "error":
            self.result(future)
        return future

    def close(self) -> None:
        """Leave the cluster to whoever made it."""

    def _check_health(self) -> None:
        now = time.monotonic()
        if now - self._looked < HEALTH_SECONDS:
            return
        self._looked = now
        with self._reached():
            workers: dict[str, int] = self._client.nthreads()
        self._n_threads = sum(workers.values())
        if workers:
            self._healthy = now
        elif now - self._healthy > NO_WORKERS_SECONDS:
            msg = (
                f"the cluster at {self._address} has had no worker for {now - self._healthy:.0f} "
                "seconds; start workers and run again: what is done is kept"
            )
            raise ClusterError(msg)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        from concurrent.futures import CancelledError

        from distributed.comm.core import CommClosedError

        try:
            yield
        except (CommClosedError, OSError, CancelledError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise ClusterError(self._gone()) from error
        if self._client.status not in ("running", "connecting"):
            raise ClusterError(self._gone())

    def _gone(self) -> str:
        return (
            f"the scheduler at {self._address} cannot be reached any more; start one and run "
            "again: what is done is kept"
        )


@contextmanager
def engine_of(
    client: Any = None, threads: int | None = None, memory_limit: str | int | None = None
) -> Iterator[Engine]:
    """Return the engine for a client, or threads where there is none."""
    limit = None if memory_limit is None else parse_bytes(memory_limit)
    engine: LocalEngine | ClusterEngine
    engine = LocalEngine(threads, limit) if client is None else ClusterEngine(client, limit)
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def local_cluster(n_workers: int, memory_limit: str | None = None) -> Iterator[Any]:
    """Make worker processes on this machine; they listen on 127.0.0.1 only.

    Parameters
    ----------
    n_workers : int
        Processes, of one thread each.
    memory_limit : str, optional
        Of each.

    Yields
    ------
    distributed.Client
    """
    from dask import config
    from distributed import Client, LocalCluster

    settings = {
        # A run that kills its worker is blamed after two, and not four; each costs seconds.
        "distributed.scheduler.allowed-failures": 1,
        # Samples of what workers are at, a hundred a second, kept for an hour.
        "distributed.worker.profile.enabled": False,
        # Scheduler, nannies and workers look at themselves so often that each second takes 58 ms
        # of this process and 20 of each worker; so it takes 10 and 3.
        "distributed.admin.tick.interval": "500ms",
        "distributed.admin.system-monitor.interval": "2s",
        "distributed.worker.memory.monitor-interval": "500ms",
    }
    with config.set(settings):
        cluster = LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=memory_limit or "auto",
        )
        with cluster, Client(cluster) as client:
            yield client


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect to a cluster by its scheduler's address.

    Yields
    ------
    distributed.Client

    Raises
    ------
    ClusterError
        When nothing answers there.
    """
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        msg = f"no scheduler answers at {address} ({error}); check the address, or start one"
        raise ClusterError(msg) from error
    with client:
        yield client
