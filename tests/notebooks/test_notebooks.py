"""Notebooks as they are kept: in step with their sources, with their pictures, and with no more."""

import json
import re
from pathlib import Path
from typing import Any

import jupytext
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
SOURCES = sorted(FOLDER.glob("*.py"))

LARGEST = 400_000  # bytes

# Where files lie on the machine that made them, and what only a warning holds.
MACHINE = re.compile(
    r"/(?:tmp|home|root|work|Users|var|usr|opt)/|site-packages|ipykernel_|Warning:"
)


def notebook_of(source: Path) -> Any:
    return json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))


def outputs_of(notebook: Any) -> list[Any]:
    return [output for cell in notebook["cells"] for output in cell.get("outputs", ())]


def texts_of(output: Any) -> list[str]:
    """Everything in an output that a person can read; pictures are not."""
    data = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
    return ["".join(one) for one in (output.get("text", ""), *data.values())]


def in_step(source: str, notebook: Any) -> bool:
    """Whether a notebook has the cells of its source."""

    def cells(found: Any) -> list[tuple[str, str]]:
        return [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in found["cells"]]

    return cells(jupytext.reads(source, fmt="py:percent")) == cells(notebook)


def test_notebooks__every_source_has_its_notebook() -> None:
    assert len(SOURCES) >= 4
    assert {p.stem for p in SOURCES} == {p.stem for p in FOLDER.glob("*.ipynb")}


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_notebook__is_in_step_with_its_source(source: Path) -> None:
    text, notebook = source.read_text(encoding="utf-8"), notebook_of(source)
    assert in_step(text, notebook), "run scripts/make_notebooks.py"
    assert not in_step(text.replace("import chunkglm", "import  chunkglm", 1), notebook)


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_notebook__was_run_from_top_to_bottom_and_holds_its_pictures(source: Path) -> None:
    notebook = notebook_of(source)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    drawing = [c for c in code if "plot" in "".join(c["source"]) and "import" not in c["source"][0]]
    assert len(drawing) >= 2
    for cell in drawing:
        pictures = [
            o["data"]["image/png"] for o in cell["outputs"] if "image/png" in o.get("data", ())
        ]
        assert pictures, "".join(cell["source"])
        assert all(len(picture) > 3000 for picture in pictures)
    assert source.with_suffix(".ipynb").stat().st_size < LARGEST


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_notebook__tells_nothing_of_the_machine_and_holds_no_warning(source: Path) -> None:
    for output in outputs_of(notebook_of(source)):
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr"
        for text in texts_of(output):
            assert not MACHINE.search(text), text
    assert MACHINE.search("in /home/me/run.nii")
    assert MACHINE.search("RuntimeWarning: invalid")
