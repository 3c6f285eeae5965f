"""Pages as Markdown and as HTML that stands alone, whatever the names in them."""

import re
from html.parser import HTMLParser

from merge3_plugin.report.page import Bullets, Figure, Heading, Table, Text, to_html, to_markdown

NASTY = "<script>alert(1)</script> | a & b\nnew line"
BLOCKS = [
    Heading("Results"),
    Text("Fine & well <b>"),
    Bullets(["one", NASTY]),
    Table(("model", "right, %"), [("org/a", "1.5"), (NASTY, "100.0")]),
    Figure("<svg><title>t</title></svg>", "a chart"),
]


class Elements(HTMLParser):
    """Open tags of a page; fails where they do not close in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        assert not {name for name, _ in attributes} & {"src", "href"}, "a page loads nothing"
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_whole_and_loads_and_runs_nothing():
    page = to_html(f"Of {NASTY}", BLOCKS)
    found = Elements(page)
    assert "script" not in found.seen and page.count("&lt;script&gt;") == 4
    assert page.startswith("<!DOCTYPE html>") and found.seen.count("tr") == 3 and "svg" in found.seen
    assert not re.search(r"url\(|@import|http", page)


def test_markdown_reads_as_text():
    page = to_markdown("Title", BLOCKS)
    assert page.startswith("# Title\n\n## Results\n\nFine & well &lt;b&gt;\n\n- one\n- &lt;script&gt;")
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len({len(line) for line in table}) == 1, "columns are aligned"
    assert table[0].startswith("| model ") and table[0].endswith(" right, % |") and table[2].endswith("      1.5 |")
    assert set(table[1]) == set("|-:")
    # A bar within a cell is no border of it.
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in table)
    assert "svg" not in page and page.endswith("\n") and "\n\n\n" not in page
