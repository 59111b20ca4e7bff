"""The documentation site: `sphinx-build -W -c docs . docs/_build/html` in a checkout with the extra "docs".

The source folder is the checkout itself, so that the tutorials, the changelog and the benchmark results are pages where they stand,
and a link between two files is the same on the site and in the repository.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import rankcell  # noqa: E402

project = "rankcell"
author = "the rankcell developers"
copyright = f"2026, {author}"
version = release = rankcell.__version__

root_doc = "docs/index"
include_patterns = ["docs/**", "tutorials/*.md", "tutorials/*.ipynb", "benchmarks/RESULTS.md", "rankcell/checkpoints/demo/README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = ["docs/_build", "docs/_templates"]
templates_path = [str(ROOT / "docs" / "_templates")]  # autosummary would look in the source folder
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode", "numpydoc", "sphinx_design", "sphinx_copybutton"]
suppress_warnings = ["mystnb.unknown_mime_type"]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}

nb_execution_mode = "off"  # tutorials are saved with their outputs, which the tests compare
myst_enable_extensions = ["amsmath", "dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"  # types stand in the signature
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

html_theme = "sphinx_book_theme"
html_title = f"rankcell {release}"
html_additional_pages = {"index": "to_front_page.html"}
html_theme_options = {"home_page_in_toc": True, "show_navbar_depth": 1, "use_download_button": False}
html_show_sourcelink = False
linkcheck_ignore = [r"https://doi\.org/.*"]
