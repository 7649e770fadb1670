"""Execute the notebooks and write them with their outputs: notebooks/*.py to notebooks/*.ipynb.

    python scripts/make_notebooks.py            # all
    python scripts/make_notebooks.py 1 3        # those whose names begin so

The `.py` files are the sources. A notebook that fails, warns or is too large is not written.
"""

import re
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
LARGEST = 400_000  # bytes of a notebook with its pictures
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def main() -> None:
    wanted = tuple(sys.argv[1:])
    for source in sorted(FOLDER.glob("*.py")):
        if not wanted or source.name.startswith(wanted):
            target = source.with_suffix(".ipynb")
            text = executed(source)
            target.write_text(text, encoding="utf-8")
            print(f"{target.name}: {len(text) / 1000:.0f} kB")


def executed(source: Path) -> str:
    """Run a notebook in a fresh kernel; return it with what it put out."""
    notebook = jupytext.read(source)
    notebook.metadata = {"kernelspec": KERNEL, "jupytext": {"formats": "ipynb,py:percent"}}
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(FOLDER))
    for i, cell in enumerate(notebook.cells):
        # The same names each time, and no times of execution: only what changed differs.
        cell.id = f"cell-{i}"
        cell.metadata = {}
        if "outputs" in cell:
            cell.outputs = tidy(cell.outputs, source)
    text = nbformat.writes(nbformat.from_dict(notebook)) + "\n"
    if len(text) > LARGEST:
        raise SystemExit(f"{source.name}: {len(text)} bytes, at most {LARGEST}; draw less")
    return text


def tidy(outputs: list[nbformat.NotebookNode], source: Path) -> list[nbformat.NotebookNode]:
    """Put together what was printed in pieces, and leave of progress bars what was seen last."""
    found: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.get("name") == "stderr":
            raise SystemExit(f"{source.name}: a warning, or another message: {output.text}")
        if "metadata" in output:
            output.metadata = {}
        if output.output_type == "stream" and found and found[-1].output_type == "stream":
            found[-1].text += output.text
        else:
            found.append(output)
    for output in found:
        if output.output_type == "stream":
            output.text = re.sub(r"[^\n]*\r(?=[^\n])", "", output.text)
    return found


if __name__ == "__main__":
    main()
