"""Pieces of error messages: one line each, however odd the text a user gave."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

_SHOWN_NAMES = 20
_SHOWN_CHARACTERS = 60


def quote(text: object) -> str:
    """Return `text` in quotes on one line, shortened when it is long."""
    plain = str(text)
    if len(plain) > _SHOWN_CHARACTERS:
        plain = plain[: _SHOWN_CHARACTERS - 3] + "..."
    return repr(plain)


def list_names(names: Iterable[object]) -> str:
    """Return the names in quotes, the first 20 of them when there are more."""
    every = list(names)
    shown = ", ".join(quote(name) for name in every[:_SHOWN_NAMES])
    hidden = len(every) - _SHOWN_NAMES
    return f"{shown} and {hidden} more" if hidden > 0 else shown


def suggest(word: str, names: Sequence[str]) -> str:
    """Return ``" (did you mean 'face'?)"`` when a name comes near `word`, else nothing."""
    # The comparison is quadratic in the length, so a pasted page is not compared at all.
    if len(word) > _SHOWN_CHARACTERS:
        return ""
    lowered = {name.lower(): name for name in reversed(names)}
    near = get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f" (did you mean {quote(lowered[near[0]])}?)" if near else ""
