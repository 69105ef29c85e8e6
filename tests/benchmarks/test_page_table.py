"""Tables that scripts write into pages."""

from __future__ import annotations

import page_table
import pytest

PAGE = """above
<!-- begin: a.py -->
old
| old |
<!-- end: a.py -->
below
<!-- begin: b.py -->
<!-- end: b.py -->
"""


def test_lines_replace_what_is_between_the_comments():
    new = page_table.replaced(PAGE, ["| a |", "| 1 |"], "a.py")
    assert new == PAGE.replace("old\n| old |\n", "| a |\n| 1 |\n")
    assert page_table.replaced(new, ["old", "| old |"], "a.py") == PAGE
    assert page_table.replaced(PAGE, ["x"], "b.py").endswith("<!-- begin: b.py -->\nx\n<!-- end: b.py -->\n")


def test_pages_without_the_comments_are_refused():
    for page in ("nothing", PAGE + PAGE):
        with pytest.raises(ValueError, match=r"must have '<!-- begin: a.py -->' and '<!-- end: a.py -->' once"):
            page_table.replaced(page, ["x"], "a.py")


@pytest.mark.parametrize(("page", "script"), [("posterior.md", "posterior"), ("digits.md", "short_runs")])
def test_pages_have_the_comments(page, script):
    text = (page_table.DOCS / page).read_text()
    assert "\nx\n" in page_table.replaced(text, ["x"], f"benchmarks/{script}.py")
