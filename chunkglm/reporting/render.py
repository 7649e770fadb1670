"""Templates filled: every name and text escaped, one script, which the page's policy names."""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_HOME = files("chunkglm.reporting") / "templates"


class Link(NamedTuple):
    """To another page of the same study."""

    text: str
    href: str


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("chunkglm.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["number"] = _number
    return found


def _number(value: Any, digits: int = 2) -> str:
    """A number with its sign as a minus, or a dash where there is none."""
    if value is None or value != value:
        return "–"
    return f"{value:,.{digits}f}".replace("-", "−")


@cache
def _asset(name: str) -> Markup:
    # The project's own files; nothing of a user's is ever marked as safe.
    return Markup((_HOME / name).read_text(encoding="utf-8"))  # noqa: S704


@cache
def _policy(script: str) -> str:
    """What the page may do: show images that it holds, run its one script, fetch nothing."""
    digest = base64.b64encode(hashlib.sha256(_asset(script).encode()).digest()).decode("ascii")
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


@cache
def own_digest() -> str:
    """SHA-256 of the templates: a page made with others is made again."""
    found = hashlib.sha256()
    for one in sorted(_HOME.iterdir(), key=lambda file: file.name):
        if one.is_file():
            found.update(one.read_bytes())
    return found.hexdigest()


def render(template: str, **values: Any) -> str:
    """Fill a template."""
    script = "viewer.js" if template == "page.html" else "index.js"
    return (
        _environment()
        .get_template(template)
        .render(style=_asset("style.css"), script=_asset(script), policy=_policy(script), **values)
    )
