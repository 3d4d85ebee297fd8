"""How Sphinx makes the site; `scripts/docs.py` puts its sources together."""

import ctlab

project = "ctlab"
author = "the ctlab authors"
release = version = ctlab.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc"]
exclude_patterns = ["docs/conf.py"]

nb_execution_mode = "off"  # the quickstart was run before; the other notebook takes minutes, and measures
myst_heading_anchors = 4

default_role = "code"  # docstrings are as plain as Markdown: one backtick
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature has them
html_theme = "alabaster"
html_theme_options = {"description": "a container-networking laboratory inside a notebook", "page_width": "1200px"}
html_copy_source = False
html_show_sourcelink = False
