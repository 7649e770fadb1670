"""Pieces of error messages: one line each, however odd the text a user gave."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

_SHOWN_NAMES = 20
_SHOWN_CHARACTERS = 60
_SHOWN_RELATIONS = 5
_SHOWN_TERMS = 6


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


def told_relations(
    relations: Iterable[tuple[int, Mapping[int, float]]], names: Sequence[str]
) -> str:
    """Return how columns follow from others, as ``'rest' = 'constant' - 'task'``.

    Parameters
    ----------
    relations : iterable of (column, {other column: weight})
        By number, from `DesignFactor.relations`.
    names : sequence of str
        Of all columns.
    """
    every = list(relations)
    told = [
        f"{quote(names[j])} = {_told_sum({names[i]: w for i, w in weights.items()})}"
        for j, weights in every[:_SHOWN_RELATIONS]
    ]
    hidden = len(every) - len(told)
    return "; ".join(told) + (f"; and {hidden} more columns follow from others" if hidden else "")


def _told_sum(weights: Mapping[str, float]) -> str:
    """Return a weighted sum of names in few digits, the largest weights of many."""
    shown = sorted(weights, key=lambda name: -abs(weights[name]))[:_SHOWN_TERMS]
    terms = []
    for name in (name for name in weights if name in shown):
        size = f"{abs(weights[name]):.4g}"
        sign = "-" if weights[name] < 0 else "+"
        terms.append(f"{sign} {'' if size == '1' else size + '*'}{quote(name)}")
    text = " ".join(terms).removeprefix("+ ")
    text = f"-{text[2:]}" if text.startswith("- ") else text
    hidden = len(weights) - len(shown)
    return (text or "0") + (f" and {hidden} more" if hidden else "")
