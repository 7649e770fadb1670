"""Pages of the documentation as programs: their code blocks, run in order in one folder.

``python`` blocks of a page share a namespace, ``bash`` blocks run in a shell of their own, ``text``
is what the block before it printed, and any other language is a file that later blocks read.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]

# Numbers on a page are those of one run on one machine: BLAS, cores and libraries move the last
# digit shown. The worst seen is 0 where the page was made.
RELATIVE = 0.02

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?")


def _as_number(_: object) -> str:
    return rf"({_NUMBER.pattern})"


@dataclass
class Block:
    """A fenced block: its language, text, and where it is."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}, line {self.line}"


def all_pages() -> list[str]:
    """README and every page of `docs`, by their paths from the root; built ones left out."""
    found = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    names = (path.relative_to(ROOT).as_posix() for path in sorted(found))
    return [name for name in names if "_build" not in name]


def blocks_of(page: str) -> list[Block]:
    """Every fenced block of a page but those that are directives of the site."""
    text = (ROOT / page).read_text(encoding="utf-8")
    tokens = [t for t in MarkdownIt().parse(text) if t.type == "fence" and t.map]
    blocks = [Block(page, t.map[0] + 1, t.info.strip(), t.content) for t in tokens if t.map]
    return [b for b in blocks if not b.language.startswith("{")]


@dataclass
class Runner:
    """Runs the blocks of one page in the current folder."""

    files: dict[str, str] = field(default_factory=dict)  # names of files, by language
    skipped: dict[str, str] = field(default_factory=dict)  # reasons, by the beginning of the block
    environment: dict[str, str] = field(default_factory=dict)
    namespace: dict[str, Any] = field(default_factory=lambda: {"__name__": "page"})
    printed: str | None = None

    def run(self, block: Block) -> None:
        """Run, write or compare one block."""
        if any(block.text.startswith(start) for start in self.skipped):
            self.printed = None
        elif block.language == "python":
            self.printed = self._python(block)
        elif block.language == "bash":
            self.printed = self._bash(block)
        elif block.language == "text":
            if self.printed is not None:
                assert_printed(block.text, self.printed, block.place)
        else:
            Path(self.files[block.language]).write_text(block.text, encoding="utf-8")

    def _python(self, block: Block) -> str:
        # Blank lines put the page's own line numbers into tracebacks.
        code = compile("\n" * block.line + block.text, str(ROOT / block.page), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, self.namespace)  # noqa: S102 - that is what this test is for
        return printed.getvalue()

    def _bash(self, block: Block) -> str:
        told = {name: v for name, v in self.environment.items() if name in block.text}
        commands = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            env={**os.environ, "PATH": commands, **told},
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, f"{block.place}: exit code {done.returncode}\n{done.stderr}"
        return done.stdout


def assert_printed(expected: str, printed: str, place: str) -> None:
    """Compare what a page shows with what was printed.

    Blanks do not count, ``...`` is anything, and numbers are compared with a tolerance.
    """
    pattern = re.escape(re.sub(r"\s+", " ", expected.strip())).replace(r"\.\.\.", ".*?")
    pattern = pattern.replace(r"\ ", r"\s+")
    numbers = [float(n) for n in _NUMBER.findall(expected)]
    pattern = re.sub(r"(?<![\w.\\])(\\-)?\d+(?:\\\.\d+)?", _as_number, pattern)
    match = re.fullmatch(pattern, printed.strip(), re.DOTALL)
    assert match, f"{place}: the page shows\n{expected}\nbut this was printed\n{printed}"
    for shown, found in zip(numbers, match.groups(), strict=True):
        off = abs(shown - float(found))
        assert off <= RELATIVE * abs(shown), f"{place}: shows {shown}, but {found} was printed"
