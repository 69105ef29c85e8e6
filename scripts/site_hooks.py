"""Hooks of mkdocs.yml: pages that lie outside docs/, links in docstrings, and errors that mkdocs does not know.

These are pages that fetch from the network, and lists and tables that GitHub shows as such and mkdocs does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
NOTEBOOK = {"quickstart.md": "examples/quickstart.ipynb"}
_FETCHED = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")
_AS_TEXT = re.compile(r"<p>(?:(?!</p>).)*?\n(- |\d\d?\. |\| )", re.S)
_CODE = re.compile(r"<(pre|code)\b.*?</\1>", re.S)
_NAMED_PAGE = re.compile(r"\bdocs/([\w/]+)\.md\b")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages of OUTSIDE and NOTEBOOK, whose links into docs/ become links of the site."""
    for page, source in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text().replace("](docs/", "](")))
    for page, source in NOTEBOOK.items():
        parts = [
            f"This page is a notebook that was run: [{Path(source).name}]({Path(source).name}).\n",
            *_parts(json.loads((ROOT / source).read_text())["cells"]),
        ]
        parts[:2] = parts[1::-1]  # after the heading
        files.append(File.generated(config, page, content="\n".join(parts).replace("](../docs/", "](")))
        files.append(File.generated(config, Path(source).name, content=(ROOT / source).read_bytes()))
    return files


def _parts(cells: list[dict[str, Any]]) -> Iterator[str]:
    """A notebook's cells and what they have shown, as Markdown."""
    for cell in cells:
        text = "".join(cell["source"])
        yield f"{text}\n" if cell["cell_type"] == "markdown" else f"```python\n{text}\n```\n"
        for output in cell.get("outputs", ()):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                picture = "".join(data["image/png"]).replace("\n", "")
                width = output.get("metadata", {}).get("image/png", {}).get("width")
                size = f'{{ width="{width}" }}' if width else ""
                yield f"![what the cell shows](data:image/png;base64,{picture}){size}\n"
            else:
                yield f"```text\n{''.join(data['text/plain']).rstrip()}\n```\n"


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
