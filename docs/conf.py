"""How the documentation is built: ``sphinx-build -W --keep-going -n docs docs/_build``."""

import shutil
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import latex2mathml.converter
from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

HERE = Path(__file__).parent
ROOT = HERE.parent

project = "chunkglm"
author = "the chunkglm developers"
copyright = author
version = release = version_of("chunkglm")

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
]
exclude_patterns = ["_build", "notebooks/*.py"]
templates_path = ["_templates"]

# Notebooks hold what they printed when they were last executed, which a test does again.
nb_execution_mode = "off"
suppress_warnings = ["toc.empty_glob"]  # of a tree without notebooks
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings tell types, shapes and units
autodoc_member_order = "bysource"
default_role = "autolink"  # a link where a name is documented, else just a name
# Names of parameters and of fields, which docstrings quote as they do names that have a page.
nitpick_ignore_regex = [("py:obj", r"[a-z_]+|distributed\..*")]
numpydoc_show_class_members = False  # the template for classes lists them
numpydoc_xref_param_type = False

html_theme = "furo"
html_title = "chunkglm"
html_static_path = ["_static"]
html_css_files = ["chunkglm.css"]
html_copy_source = False
html_math_renderer = "mathml"
html_theme_options = {"navigation_with_keys": True}

sys.path.insert(0, str(ROOT))


def take_notebooks() -> None:
    """Notebooks lie beside `docs`, for those who run them; Sphinx reads what lies below it."""
    there = HERE / "notebooks"
    shutil.rmtree(there, ignore_errors=True)
    found = sorted((ROOT / "notebooks").glob("*.ipynb"))
    if found:
        there.mkdir()
    for path in found:
        shutil.copy(path, there / path.name)


def skip_what_is_made_elsewhere(*event: object) -> bool | None:
    """Leave out `set_fit_request` and its like, which scikit-learn adds to the drop-in's class."""
    name = str(event[2])
    return True if name.startswith("set_") and name.endswith("_request") else None


def formula(writer: Any, node: Any) -> None:
    """Write a formula as MathML, which browsers set themselves: no page fetches a script for it."""
    display = "inline" if isinstance(node, nodes.math) else "block"
    writer.body.append(latex2mathml.converter.convert(node.astext(), display=display))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", skip_what_is_made_elsewhere)
    app.add_lexer("csv", TextLexer)
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))


take_notebooks()
