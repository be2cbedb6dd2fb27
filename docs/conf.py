"""The documentation site: `make docs` builds it into docs/_build/html, every warning an error."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_extensions"), str(HERE.parent)]
os.environ.setdefault("COLUMNS", "100")  # argparse wraps its usage by it

project = "splitcom_dist"
author = copyright = ""
html_show_copyright = html_show_sphinx = False
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_argparse_cli",
    "sphinx_copybutton",
    "reference_pages",
    "plain_docstrings",
    "repository_links",
]
exclude_patterns = ["_build", "_extensions", "examples"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3  # as the anchors that GitHub makes, which links between pages use

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # torch's own are no markup of ours
autodoc_typehints = "signature"
autodoc_default_options = {"undoc-members": False}
autodoc_mock_imports = ["mpi4py"]
maximum_signature_line_length = 88

html_theme = "furo"
html_title = "splitcom_dist"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
