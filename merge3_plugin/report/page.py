"""A page of headings, paragraphs, tables and charts, as one self-contained HTML file or as Markdown."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #8886; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
figure { margin: 1rem 0; }
svg { width: 100%; max-width: 42rem; font: 12px system-ui, sans-serif; fill: currentColor; }
svg .axis { stroke: currentColor; }
svg .grid { stroke: currentColor; stroke-opacity: .2; }
figcaption { opacity: .8; }
"""


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column is aligned to the left, the others to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A chart as SVG. It is left out of Markdown: what it shows stands in a table or in the text too."""

    svg: str
    caption: str


Block = Heading | Text | Bullets | Table | Figure


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """One HTML file that loads nothing."""
    body = "\n".join(_html(block) for block in blocks)
    name = html.escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{name}</h1>\n{body}\n</body>\n</html>\n"
    )


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """Markdown that reads well as plain text: tables are aligned."""
    parts = [f"# {title}", *(text for block in blocks if (text := _markdown(block)))]
    return "\n\n".join(parts) + "\n"


def _html(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{html.escape(text)}</h2>"
        case Text(text):
            return f"<p>{html.escape(text)}</p>"
        case Bullets(items):
            return "<ul>\n" + "\n".join(f"<li>{html.escape(item)}</li>" for item in items) + "\n</ul>"
        case Table(header, rows):
            head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
            lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
            return "\n".join([f"<table>\n<tr>{head}</tr>", *(f"<tr>{line}</tr>" for line in lines), "</table>"])
        case Figure(svg, caption):
            return f"<figure>\n{svg}\n<figcaption>{html.escape(caption)}</figcaption>\n</figure>"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {text}"
        case Text(text):
            return _literal(text)
        case Bullets(items):
            return "\n".join(f"- {_literal(item)}" for item in items)
        case Table(header, rows):
            return _aligned([[_literal(cell).replace("|", "\\|") for cell in row] for row in (header, *rows)])
        case Figure():
            return ""


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    lines = [
        "| "
        + " | ".join(c.rjust(w) if k else c.ljust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True)))
        + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (w + 1) + ":" if k else "-" * (w + 2) for k, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _literal(text: str) -> str:
    """``text`` on one line, without what Markdown or HTML would take for a tag."""
    return html.escape(" ".join(text.split()), quote=False).replace("&amp;", "&")
