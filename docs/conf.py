"""How Sphinx builds the documentation: `sh ./dev docs`."""

import importlib.metadata

project = "Warren"
author = "Warren's developers"
copyright = "Warren's developers, Apache License 2.0"  # noqa: A001 (the name that Sphinx reads)
release = importlib.metadata.version("warren")

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["README.md"]
myst_enable_extensions = ["colon_fence", "deflist"]
# A heading can be linked to by its text, as on the forges that show these files too.
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"Warren {release}"
html_copy_source = False
html_show_sourcelink = False
