"""Progress of work: in notebooks, in terminals, and of what is done on a cluster."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any
from uuid import uuid4

from dask.base import get_scheduler
from dask.callbacks import Callback

# In a file each update is a line: one every ten seconds is enough.
SECONDS, SECONDS_IN_A_FILE = 0.2, 10.0

# Between two questions to a cluster's scheduler.
ASKED_SECONDS = 0.5


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


def bar(total: int | None, desc: str, *, show: bool = True, **options: Any) -> Any:
    """Return a bar of tqdm's: text, on standard error, or in a notebook in the cell's output.

    Text in notebooks too: it is there when the notebook is opened again, on any page that shows
    notebooks, and needs no widgets.

    Parameters
    ----------
    total : int or None
    desc : str
    show : bool
    **options
        Of tqdm's.
    """
    from tqdm import tqdm

    stream = _stream()
    live = in_notebook() or stream.isatty()
    ways: dict[str, Any] = {"mininterval": SECONDS if live else SECONDS_IN_A_FILE}
    if not in_notebook():
        ways["dynamic_ncols"] = True
    return tqdm(total=total, desc=desc, file=stream, disable=not show, **{**ways, **options})


def _stream() -> Any:
    return sys.stdout if in_notebook() else sys.stderr


@contextmanager
def progress_bar(desc: str = "compute", *, show: bool = True) -> Iterator[None]:
    """Show how many of the tasks computed inside are done.

    Parameters
    ----------
    desc : str
        What to call the work.
    show : bool

    Notes
    -----
    In a notebook the bar is text in the cell's output, elsewhere on standard error. Where a
    `distributed.Client` is at work, its tasks are counted, and the link to its dashboard is shown
    first.

    Examples
    --------
    ::

        with cg.progress_bar("fixed effects"):
            fixed = fixed.compute()
    """
    client = _client() if show else None
    if not show:
        yield
    elif client is not None:
        with _of_client(client, desc):
            yield
    else:
        with _Tasks(desc):
            yield


class _Tasks(Callback):  # type: ignore[misc]
    """A bar for every computation of dask's own schedulers."""

    def __init__(self, desc: str) -> None:
        super().__init__()
        self._desc = desc
        self._bar: Any = None

    def _start_state(self, _: Any, state: Any) -> None:
        total = sum(len(state[kind]) for kind in ("ready", "waiting", "running", "finished"))
        self._bar = bar(total, self._desc, unit="task")

    def _posttask(self, *_: Any) -> None:
        self._bar.update()

    def _finish(self, *_: Any) -> None:
        self._bar.close()


def tell_dashboard(client: Any) -> None:
    """Say where the dashboard of a cluster is."""
    link = getattr(client, "dashboard_link", "")
    if link:
        print(f"dashboard: {link}", file=_stream(), flush=True)


def _client() -> Any:
    """Return the client that dask would compute with, or None."""
    if "distributed" not in sys.modules:
        return None
    owner: Any = getattr(get_scheduler(), "__self__", None)
    return owner if hasattr(owner, "run_on_scheduler") and not owner.asynchronous else None


@contextmanager
def _of_client(client: Any, desc: str) -> Iterator[None]:
    """Count a cluster's tasks, from now on, and ask for the counts in a thread beside the work."""
    tell_dashboard(client)
    name = f"chunkglm-progress-{uuid4().hex}"
    client.register_plugin(_counter(), name=name)
    over = Event()

    def counts(dask_scheduler: Any = None) -> tuple[int, int]:
        plugin = dask_scheduler.plugins[name]
        return plugin.done, plugin.total

    with bar(0, desc, unit="task") as shown:

        def ask() -> None:
            shown.n, shown.total = client.run_on_scheduler(counts)
            shown.refresh()

        def watch() -> None:
            while not over.wait(ASKED_SECONDS):
                ask()

        thread = Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
            over.set()
            thread.join()
            ask()
        finally:
            over.set()
            thread.join()
            client.unregister_scheduler_plugin(name)


def _counter() -> Any:
    """Make what counts tasks on a scheduler, of a class that travels with it."""
    from distributed import SchedulerPlugin

    class Counter(SchedulerPlugin):  # type: ignore[misc]
        done = total = 0

        def update_graph(self, scheduler: Any, *, tasks: Any = (), **_: Any) -> None:
            self.total += len(tasks)

        def transition(self, key: Any, start: str, finish: str, *_: Any, **__: Any) -> None:
            self.done += (start, finish) == ("processing", "memory")

    return Counter()
