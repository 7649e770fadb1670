"""Some of a design's columns, by name."""

from collections.abc import Iterable
from typing import Any

from chunkglm.design._messages import list_names, quote, suggest
from chunkglm.design.matrix import Design
from chunkglm.errors import DesignError


def select_columns(design: Design, names: Any, *, drop: bool = False) -> Design:
    """Return a design of some of another's columns.

    Parameters
    ----------
    design : Design
    names : str or iterable of str
        Columns to keep, in the order wanted.
    drop : bool
        Leave these out instead, and keep the order of the rest.

    Returns
    -------
    Design

    Raises
    ------
    DesignError
        When a name is not the design's or is given twice, or none is left.
    """
    wanted = _as_names(names)
    for i, name in enumerate(wanted):
        if name not in design.names:
            msg = (
                f"{design.source} has no column {quote(name)}{suggest(name, design.names)}; its "
                f"columns are {list_names(design.names)}"
            )
            raise DesignError(msg)
        if name in wanted[:i]:
            raise DesignError(f"column {quote(name)} is named twice; name each once")
    if drop:
        wanted = [name for name in design.names if name not in wanted]
    if not wanted:
        msg = f"no column of {design.source} is left; keep some of {list_names(design.names)}"
        raise DesignError(msg)
    columns = [design.names.index(name) for name in wanted]
    return Design(design.values[:, columns], tuple(wanted), design.source)


def _as_names(names: Any) -> list[str]:
    if isinstance(names, str):
        return [names.strip()]
    if not isinstance(names, Iterable):
        raise DesignError(f"columns are named by a list of names, but got {names!r}")
    found = list(names)
    for name in found:
        if not isinstance(name, str):
            raise DesignError(f"columns are named by a list of names, but one is {name!r}")
    return [name.strip() for name in found]
