"""Hooks of mkdocs.yml: pages that lie outside docs/, links in docstrings, and errors that mkdocs does not know.

These are pages that fetch from the network, and lists and tables that GitHub shows as such and mkdocs does not.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
_FETCHED = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")
_AS_TEXT = re.compile(r"<p>(?:(?!</p>).)*?\n(- |\d\d?\. |\| )", re.S)
_CODE = re.compile(r"<(pre|code)\b.*?</\1>", re.S)
_NAMED_PAGE = re.compile(r"\bdocs/([\w/]+)\.md\b")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages of OUTSIDE, whose links into docs/ become links of the site."""
    for page, source in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text().replace("](docs/", "](")))
    return files


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Makes links of the pages that docstrings name, as in "docs/noise.md"."""
    as_text = _AS_TEXT.search(_CODE.sub("", html))
    if as_text:
        raise PluginError(f"{page.file.src_uri} has a list or a table that is shown as text: {as_text[0][-200:]}")

    def link(match: re.Match[str]) -> str:
        named = files.get_file_from_path(f"{match[1]}.md")
        return match[0] if named is None else f'<a href="{get_relative_url(named.url, page.url)}">{match[0]}</a>'

    return _NAMED_PAGE.sub(link, html) if page.file.src_uri.startswith("api/") else html


def on_post_page(output: str, page: Any, config: Any) -> str:
    fetched = _FETCHED.search(output)
    if fetched:
        raise PluginError(f"{page.file.src_uri} would fetch from the network: {fetched[0]}")
    return output
