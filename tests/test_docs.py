"""The pages of docs/: their blocks run as they stand, links lead somewhere, and every public name has its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fastlangevin as fl

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    *(DOCS / name for name in ("index.md", "getting_started.md", "platforms.md", "reading_a_plan.md")),
    *(page for folder in ("guides", "concepts", "api") for page in sorted((DOCS / folder).glob("*.md"))),
]
NAMES = [page.relative_to(DOCS).as_posix() for page in PAGES]
WRITTEN = [
    *sorted(DOCS.rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "llms.txt")),
]
ON_THE_SITE = {  # scripts/site_hooks.py
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "quickstart.md": "examples/quickstart.ipynb",
}
LINK = re.compile(r"(?<!\\)\]\(([^)\s]+)\)")
PRINTED = re.compile(r"^( *)print\((.*)\)  # → (.*)$", re.M)


def prose(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Of the headings, made as GitHub and mkdocs.yml make them, and of what mkdocstrings writes about a name."""
    text = page.read_text()
    headings = [re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", h) for h in re.findall(r"^#+ (.*)$", prose(text), re.M)]
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r"^::: (\S+)$", text, re.M))


@pytest.mark.parametrize("name", [n for n, p in zip(NAMES, PAGES, strict=True) if "```python" in p.read_text()])
def test_blocks(name, tmp_path, monkeypatch):
    """A line `print(a)  # → b` says what it prints."""
    train = fl.train

    def short(*arguments, **options):
        return train(*arguments, **{"progress": False, **options, "n_iterations": 1, "features": 8})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fl, "train", short)

    def expect(found: object, expected: str) -> None:
        assert str(found) == expected

    names: dict[str, object] = {"expect": expect}
    for block in re.findall(r"^```python\n(.*?)^```", (DOCS / name).read_text(), re.M | re.S):
        code = PRINTED.sub(lambda m: f"{m[1]}expect({m[2]}, {m[3]!r})", block)
        exec(compile(code, name, "exec"), names)


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links(page):
    for link in LINK.findall(prose(page.read_text())):
        if link.startswith(("http:", "https:")):
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else page.parent / path
        if page.is_relative_to(DOCS) and not target.exists():
            target = ROOT / ON_THE_SITE.get(target.resolve().relative_to(DOCS.resolve()).as_posix(), "missing")
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    listed = re.findall(r"[\w/]+\.md", navigation)
    assert len(listed) == len(set(listed))
    assert set(listed) == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} | set(ON_THE_SITE)


def test_every_public_name_has_a_reference():
    written = {
        name
        for page in (DOCS / "api").glob("*.md")
        for name in re.findall(r"^::: fastlangevin\.(\w+)", page.read_text(), re.M)
    }
    assert set(fl.__all__) - written == {"__version__"}, "a page of docs/api needs a line '::: fastlangevin.NAME'"
