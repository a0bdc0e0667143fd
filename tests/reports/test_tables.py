"""Claims: a table shows the same cells in a notebook as it holds, and takes no text for markup."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from reports.tables import Table

WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)


class Cells(HTMLParser):
    """Collect rows of (tag, text)."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[tuple[str, str]]] = []
        self.tags: set[str] = set()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002 - its signature
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append((tag, ""))

    def handle_data(self, data: str) -> None:
        tag, text = self.rows[-1][-1]
        self.rows[-1][-1] = tag, text + data


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=4))
def test_a_notebook_shows_every_cell_in_its_place(rows: list[tuple[str, str, str]]) -> None:
    head, *body = rows
    shown = Cells(Table(head, tuple(body))._repr_html_())
    assert shown.rows == [
        [("th", text) for text in head],
        *([("td", text) for text in row] for row in body),
    ]


def test_text_is_not_taken_for_markup() -> None:
    hostile = "<script>alert(1)</script>"
    html = Table((hostile,), ((f"{{0}} & {hostile}",),))._repr_html_()
    assert Cells(html).tags == {"table", "tr", "th", "td"}
    assert Cells(html).rows == [[("th", hostile)], [("td", f"{{0}} & {hostile}")]]
