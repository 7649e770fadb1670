"""Pages taken apart."""

from html.parser import HTMLParser
from typing import Any


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.words: list[str] = []
        self._inside: list[str] = []
        self.scripts: list[tuple[dict[str, Any], str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside.append(tag)
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if self._inside:
            attrs, text = self.scripts[-1]
            self.scripts[-1] = (attrs, text + data)
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        """What is read on it."""
        return " ".join(" ".join(self.words).split())

    def ids(self) -> set[str]:
        return {attrs["id"] for _, attrs in self.tags if "id" in attrs}

    def addresses(self) -> list[str]:
        """Everything that a browser might fetch or go to."""
        names = ("src", "href", "xlink:href", "action", "data", "poster", "srcset")
        return [attrs[n] for _, attrs in self.tags for n in names if n in attrs]
