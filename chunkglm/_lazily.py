"""Names of a package that are imported when they are first used."""

import atexit
import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from sys import modules
from typing import Any


def imported_when_used(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """Make a package's ``__getattr__``.

    Parameters
    ----------
    package : str
        The package's ``__name__``.
    home : mapping
        Each name, and the module that it comes from. The package itself where the name is one of
        its modules.

    Returns
    -------
    callable
        It finds a name's object, and keeps it in the package; raises AttributeError for others.
    """

    def find(name: str) -> Any:
        if name not in home:
            msg = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(msg)
        look_once_less_at_exit()
        with collector_paused():
            if home[name] == package:
                found: Any = import_module(f"{package}.{name}")
            else:
                found = getattr(import_module(home[name]), name)
        setattr(modules[package], name, found)
        return found

    return find


@contextmanager
def collector_paused() -> Iterator[None]:
    """Leave cycles of references alone meanwhile, where they were looked for.

    numpy, pandas, xarray and dask make some 100,000 objects as they load, none of them garbage;
    looking through them again and again is a seventh of the time of loading them. They count as old
    at the end: looking through them as new ones took 0.06 s of the first computation.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if not gc.get_freeze_count():  # what a user froze stays so
                gc.freeze()
                gc.unfreeze()  # to the oldest generation, in which all is looked through still
            gc.enable()


@cache
def look_once_less_at_exit() -> None:
    """Let the interpreter's end do without the first of its three looks for cycles.

    They go through all that was imported, for 0.25 s in all, of which the first takes 0.06 to 0.09;
    what it would find is found by the second. The others stay, for without them what a user left
    open in a cycle is not finalised, and a file may lack its end: ``gc.freeze`` is not for
    libraries.
    """
    atexit.register(gc.disable)
