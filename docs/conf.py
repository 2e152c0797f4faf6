"""How Sphinx makes a site of these pages: `make docs`."""

from attn_lstm import __version__

project = "attn_lstm"
author = "The attn_lstm authors"
release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # links to headings, as GitHub has them
nb_execution_mode = "off"  # a test runs the notebook

autodoc_member_order = "bysource"
autodoc_typehints = "description"
# Field lists of our docstrings name shapes in brackets, which are no links.
napoleon_use_ivar = True

html_theme = "furo"
html_show_copyright = False
html_title = f"attn_lstm {release}"
exclude_patterns = ["_build"]


def _inside(app: object, page: str, source: list[str]) -> None:
    """Links that lead out of this folder, for who reads on GitHub, lead to pages of the site."""
    for path, inside in (("../benchmarks/RESULTS.md", "results.md"), ("../README.md", "index.md")):
        source[0] = (
            source[0].replace(f"]({path}", f"]({inside}").replace(f"](../{path}", f"](../{inside}")
        )


def setup(app: object) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _inside)  # type: ignore[attr-defined]
