"""Names of contrasts as labels of files."""

import re
import unicodedata
from collections.abc import Iterable

from chunkglm.errors import MapsError

_SIGNS = {"-": "Minus", "+": "Plus", "*": "Times", "/": "Over", ">": "Gt", "<": "Lt", "=": "Eq"}
_ENTITY = re.compile(r"(?:^|_)contrast-")


def prefixes(prefix: str, names: Iterable[str]) -> dict[str, str]:
    """Beginnings of the names of the files of several contrasts, by contrast.

    Parameters
    ----------
    prefix : str
        Of all of them, such as ``"sub-01"``.
    names : iterable of str

    Returns
    -------
    dict

    Raises
    ------
    MapsError
        When two contrasts would have the same files, or one no label.

    Examples
    --------
    >>> prefixes("sub-01", ["StSSp", "face - house", "mean of all"])["face - house"]
    'sub-01_contrast-faceMinusHouse'
    """
    if _ENTITY.search(prefix):
        msg = (
            f"prefix {prefix!r} names a contrast, but there are several, which files are named by; "
            "leave it out"
        )
        raise MapsError(msg)
    found: dict[str, str] = {}
    for name in names:
        label = bids_label(name)
        if not label:
            msg = f"contrast {name!r} has no letter or digit (a-z, 0-9) to name files by; rename it"
            raise MapsError(msg)
        # Some file systems do not tell upper from lower case.
        taken = [n for n, other in found.items() if bids_label(n).lower() == label.lower()]
        if taken:
            msg = f"contrasts {taken[0]!r} and {name!r} would have the same files; rename one"
            raise MapsError(msg)
        found[name] = f"{prefix}_contrast-{label}"
    return found


def bids_label(name: str) -> str:
    """Letters and digits only, words after the first with a capital.

    Examples
    --------
    >>> bids_label("2*a - b"), bids_label("größe_1"), bids_label("DStSSp")
    ('2TimesAMinusB', 'groe1', 'DStSSp')
    """
    for sign, word in _SIGNS.items():
        name = name.replace(sign, f" {word} ")
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    words: list[str] = re.findall(r"[A-Za-z0-9]+", plain)
    return "".join(words[:1] + [word[0].upper() + word[1:] for word in words[1:]])
