"""Progress: on which stream, of how many tasks, and of what a cluster does."""

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest

from chunkglm.lazy.progress import bar, in_notebook, progress_bar


@pytest.fixture
def work() -> Any:
    return da.ones((4, 4), chunks=2).map_blocks(lambda block: block + 1, dtype="f8")


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """What IPython looks like in a kernel."""
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))


def test_progress_bar__counts_tasks_on_standard_error(
    work: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("adding"):
        found = work.compute()
    assert (found == 2).all()
    out, err = capsys.readouterr()
    assert out == ""
    last = err.strip().split("\r")[-1]
    assert last.startswith("adding: 100%")
    done, _, total = last.split("| ")[1].split(" ")[0].partition("/")
    assert done == total
    assert int(total) >= 4


def test_progress_bar__in_a_notebook_is_text_in_the_cells_output(
    work: Any, notebook: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_notebook()
    with progress_bar("adding"):
        work.compute()
    out, err = capsys.readouterr()
    assert "adding: 100%" in out
    assert err == ""


def test_progress_bar__shows_nothing_when_told_so(
    work: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar(show=False):
        work.compute()
    with bar(3, "quiet", show=False) as quiet:
        quiet.update()
    assert capsys.readouterr() == ("", "")
    assert not in_notebook()


def test_progress_bar__ends_when_work_fails(capsys: pytest.CaptureFixture[str]) -> None:
    broken = da.ones(4, chunks=2).map_blocks(lambda block: 1 / 0, dtype="f8", meta=np.ones(0))
    with pytest.raises(ZeroDivisionError), progress_bar("failing"):
        broken.compute()
    assert "failing" in capsys.readouterr().err


@pytest.fixture
def client() -> Iterator[Any]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as found,
    ):
        yield found


def test_progress_bar__with_a_client_counts_its_tasks_and_links_its_dashboard(
    client: Any, work: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("far away"):
        work.compute()
    _, err = capsys.readouterr()
    assert err.startswith(f"dashboard: {client.dashboard_link}\n")
    last = err.strip().split("\r")[-1]
    assert last.startswith("far away: 100%")
    plugins = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.plugins))
    assert not [name for name in plugins if "chunkglm" in name]


def test_progress_bar__with_a_client_that_is_not_asked_counts_here(
    client: Any, work: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with dask.config.set(scheduler="synchronous"), progress_bar("here"):
        work.compute()
    err = capsys.readouterr().err
    assert "dashboard" not in err
    assert "here: 100%" in err
