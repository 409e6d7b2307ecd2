"""Sphinx configuration. Nothing is loaded from the network, neither now nor by a reader's browser."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from paraflowkit import __version__

project = "paraflowkit"
author = "The paraflowkit authors"
project_copyright = "The paraflowkit authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "settings_table", "packed_sections"]
exclude_patterns = ["data", "_build"]
html_theme = "furo"
html_title = f"paraflowkit {__version__}"
html_copy_source = False
html_show_sphinx = False

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
# `Attributes:` sections name several fields a line; as fields of the class they cannot clash with its members.
napoleon_use_ivar = True
