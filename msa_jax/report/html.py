"""A document as one HTML file: styles and pictures inside it, no script, nothing from a network."""

import base64
import html
from collections.abc import Sequence

from msa_jax.report.page import (
    Block,
    Bullets,
    Document,
    Figure,
    Paragraph,
    Table,
    one_line,
    plain,
    spans,
)

_TAGS = {"plain": ("", ""), "code": ("<code>", "</code>"), "bold": ("<strong>", "</strong>")}
# Pictures are drawn at 120 dots an inch; a browser counts 96 an inch.
_BROWSER_PIXELS = 96 / 120
# The browser itself then refuses scripts and whatever lies outside the file.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0;
  --paper: #ffffff; --shade: #f4f6f8; --link: #0a58a8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #9ba6b2; --line: #3a424c; --paper: #14181d;
    --shade: #1e242b; --link: #7ab8f5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 64rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0.5rem 0 1rem; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.5rem 0 0.75rem; padding-top: 0.75rem;
  border-top: 1px solid var(--line); }
h1, h2, p, li, figcaption, caption { overflow-wrap: anywhere; }
p, ul { max-width: 46rem; margin: 0.75rem 0; }
a { color: var(--link); }
nav ul { columns: 16rem; padding-left: 1.25rem; font-size: 0.95rem; }
code { font: 0.9em ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  background: var(--shade); border-radius: 0.25rem; padding: 0.1em 0.3em; }
.scroll { overflow-x: auto; margin: 1rem 0 0.5rem; }
table { border-collapse: collapse; font-size: 0.92rem; }
caption { caption-side: top; text-align: left; padding-bottom: 0.5rem; color: var(--soft); }
th, td { padding: 0.35rem 0.75rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
thead th { background: var(--shade); border-bottom: 2px solid var(--line); }
tbody th { font-weight: inherit; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
figure { margin: 1.25rem 0; }
img { display: block; max-width: 100%; height: auto; background: #ffffff; border-radius: 0.25rem; }
figcaption, .note { font-size: 0.92rem; color: var(--soft); max-width: 46rem;
  margin: 0.35rem 0; }
@media (max-width: 40rem) { img { max-width: max(100%, 38rem); } }
@media print {
  :root { color-scheme: light; --ink: #000000; --soft: #444444; --line: #bbbbbb;
    --paper: #ffffff; --shade: #f2f2f2; --link: #000000; }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  nav { display: none; }
  .scroll { overflow: visible; }
  table { font-size: 8.5pt; }
  thead { display: table-header-group; }
  tr, figure { break-inside: avoid; }
  h2 { break-after: avoid; }
  img { max-width: 100%; max-height: 22cm; width: auto; } }
"""


def render(document: Document) -> str:
    """A page for a browser, of a phone too; the same document gives the same text."""
    headings = [
        f'<li><a href="#section-{number}">{_inline(section.heading)}</a></li>'
        for number, section in enumerate(document.sections, 1)
    ]
    contents = ["<nav><ul>", *headings, "</ul></nav>"] if len(headings) > 2 else []
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(plain(document.title))}</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body>",
        "<main>",
        f"<h1>{_inline(document.title)}</h1>",
        *_blocks(document.lead),
        *contents,
    ]
    for number, section in enumerate(document.sections, 1):
        lines += [
            "<section>",
            f'<h2 id="section-{number}">{_inline(section.heading)}</h2>',
            *_blocks(section.blocks),
            "</section>",
        ]
    return "\n".join([*lines, "</main>", "</body>", "</html>", ""])


def _blocks(blocks: Sequence[Block]) -> list[str]:
    return [line for block in blocks for line in _block(block)]


def _block(block: Block) -> list[str]:
    match block:
        case Paragraph():
            return [f"<p>{_inline(block.text)}</p>"]
        case Bullets():
            return ["<ul>", *(f"<li>{_inline(item)}</li>" for item in block.items), "</ul>"]
        case Table():
            return _table(block)
        case Figure():
            return _figure(block)


def _table(table: Table) -> list[str]:
    """The first column names the rows, unless it holds numbers."""
    kinds = [' class="number"' if numeric else "" for numeric in table.numeric]
    first = "td" if table.numeric[0] else "th"
    head = (
        f'<th scope="col"{kind}>{_inline(cell)}</th>'
        for cell, kind in zip(table.header, kinds, strict=True)
    )
    # A keyboard reaches what scrolls, and is told what it is.
    name = html.escape(plain(table.caption) or "table")
    lines = [f'<div class="scroll" role="region" aria-label="{name}" tabindex="0">', "<table>"]
    if table.caption:
        lines.append(f"<caption>{_inline(table.caption)}</caption>")
    lines += ["<thead>", f"<tr>{''.join(head)}</tr>", "</thead>", "<tbody>"]
    for row in table.rows:
        cells = []
        for column, (cell, kind) in enumerate(zip(row, kinds, strict=True)):
            tag = first if column == 0 else "td"
            scope = ' scope="row"' if tag == "th" else ""
            cells.append(f"<{tag}{scope}{kind}>{_inline(cell)}</{tag}>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines += ["</tbody>", "</table>", "</div>"]
    return [*lines, *(f'<p class="note">{_inline(note)}</p>' for note in table.notes)]


def _figure(figure: Figure) -> list[str]:
    width, height = (round(pixels * _BROWSER_PIXELS) for pixels in figure.size)
    data = base64.b64encode(figure.png).decode("ascii")
    alt = html.escape(one_line(figure.alt))
    lines = [
        "<figure>",
        '<div class="scroll">',
        f'<img width="{width}" height="{height}" alt="{alt}" src="data:image/png;base64,{data}">',
        "</div>",
    ]
    if figure.caption:
        lines.append(f"<figcaption>{_inline(figure.caption)}</figcaption>")
    return [*lines, "</figure>"]


def _inline(text: str) -> str:
    parts = []
    for span in spans(text):
        before, after = _TAGS[span.style]
        parts.append(f"{before}{html.escape(span.text)}{after}")
    return "".join(parts)
