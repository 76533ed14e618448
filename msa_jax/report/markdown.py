"""A document as Markdown (GitHub's): for reading in a terminal, a pull request, a repository."""

import re
from collections.abc import Sequence

from msa_jax.report.page import Block, Bullets, Document, Figure, Paragraph, Table, one_line, spans

# An underscore inside a word means nothing, at its edge it may; a last # would end a heading.
_SPECIAL = re.compile(r"[\\`*\[\]<>|~&$]|#(?=#*$)|(?<![^\W_])_|_(?![^\W_])")
# What makes a heading, a list, a quotation or a rule of a line that starts with it.
_OPENING = re.compile(r"^(#|[-+=](?=[-+=\s]|$)|\d+(?=[.)]))")


def render(document: Document, *, figures: str = "figures") -> str:
    """The document's text; the same document gives the same text.

    Args:
      document: its pictures are not in the text: write `document.figures` to the folder.
      figures: the folder's path, seen from where the text will lie.
    """
    parts = [f"# {_inline(document.title)}", *_blocks(document.lead, figures)]
    for section in document.sections:
        parts += [f"## {_inline(section.heading)}", *_blocks(section.blocks, figures)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _blocks(blocks: Sequence[Block], figures: str) -> list[str]:
    return [part for block in blocks for part in _block(block, figures)]


def _block(block: Block, figures: str) -> list[str]:
    match block:
        case Paragraph():
            return [_line(block.text)]
        case Bullets():
            return ["\n".join(f"- {_line(item)}" for item in block.items)]
        case Table():
            return _table(block)
        case Figure():
            alt = _escaped(one_line(block.alt))
            return [f"![{alt}]({figures}/{block.name}.png)", _line(block.caption)]


def _table(table: Table) -> list[str]:
    rules = ["---:" if numeric else "---" for numeric in table.numeric]
    rows = [[_cell(cell) for cell in row] for row in (table.header, *table.rows)]
    lines = [f"| {' | '.join(row)} |" for row in [rows[0], rules, *rows[1:]]]
    return [_line(table.caption), "\n".join(lines), *(_line(note) for note in table.notes)]


def _line(text: str) -> str:
    """A text at the start of a line, where more characters have a meaning."""
    return _OPENING.sub(_opened, _inline(text))


def _opened(match: re.Match[str]) -> str:
    # "1." starts a list as "-" does, but a backslash may stand before a punctuation mark alone.
    return f"{match[0]}\\" if match[0].isdigit() else f"\\{match[0]}"


def _cell(text: str) -> str:
    """A bar ends a cell even inside code, and only HTML's code can hold it in every reader."""
    return "".join(
        f"<code>{_escaped(span.text)}</code>"
        if span.style == "code" and "|" in span.text
        else _styled(span.text, span.style)
        for span in spans(text)
    )


def _inline(text: str) -> str:
    return "".join(_styled(span.text, span.style) for span in spans(text))


def _styled(text: str, style: str) -> str:
    match style:
        case "code":
            return _code(text)
        case "bold":
            return f"**{_escaped(text)}**"
    return _escaped(text)


def _code(text: str) -> str:
    """Code that holds backticks stands between longer rows of them."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda match: f"\\{match[0]}", text)
