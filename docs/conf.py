"""Sphinx, without network.

``pip install -c constraints.txt -e '.[docs,neural]' && sphinx-build -W docs docs/_build``
"""

import sys
from pathlib import Path

import tpg

sys.path.insert(0, str(Path(__file__).parent))  # for _generate

project = "tpg"
release = version = tpg.__version__
extensions = ["myst_nb", "_generate"]
exclude_patterns = ["_build"]
templates_path: list[str] = []

nb_execution_mode = "off"  # pages show the outputs that are committed
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
smartquotes = False

html_theme = "furo"
html_title = f"tpg {version}"
html_copy_source = False
html_show_copyright = False
