"""Configuration of the documentation site: Sphinx with MyST Markdown and Furo. `make docs` builds it, offline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

project = "backbone-nas"
author = "the backbone-nas authors"
copyright = "2026, the backbone-nas authors"

extensions = ["myst_parser", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # links to headings work as on GitHub
exclude_patterns = ["_build", "tutorials/notebook.ipynb"]
html_theme = "furo"
html_title = "backbone-nas"
html_extra_path = ["sample_report.html"]

DOCS = Path(__file__).parent
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<path>\.\./[^)\s#]*)[^)\s]*\)")
_SECTION = re.compile(r"^## (?P<title>.+?)\n\n(?P<list>(?:- .+\n)+)", re.MULTILINE)
_PAGE = re.compile(r"\]\((?P<page>[\w/-]+)\.md\)")


def add_contents(app: Any, docname: str, source: list[str]) -> None:
    """Turn the link lists of index.md into the site's table of contents; GitHub shows the plain lists."""
    if docname != "index":
        return
    for section in _SECTION.finditer(source[0]):
        pages = "\n".join(match["page"] for match in _PAGE.finditer(section["list"]))
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {section['title']}\n\n{pages}\n```\n"


def add_downloads(app: Any, docname: str, source: list[str]) -> None:
    """Turn links to files of the repository outside of docs/ into downloads, and those to folders into text."""
    page = DOCS / docname

    def replaced(link: re.Match[str]) -> str:
        target = (page.parent / link["path"]).resolve()
        if target.is_relative_to(DOCS):
            return link[0]
        return f"{{download}}`{link['text']} <{link['path']}>`" if target.is_file() else link["text"]

    source[0] = _LINK.sub(replaced, source[0])


def setup(app: Any) -> None:
    """Register the hooks."""
    app.connect("source-read", add_contents)
    app.connect("source-read", add_downloads)
