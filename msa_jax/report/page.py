"""A report's content, said once: `html.render` and `markdown.render` show it.

Texts hold a minimal markup: `code` between backticks and **bold** between pairs of stars. All else
stands for itself, whatever characters it holds. Where text comes from outside (an id, a path), pass
it through `literal` or `code`, so that its own backticks and stars stand for themselves too.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FIGURE_NAME = re.compile(r"[a-z0-9]+(?:[_-][a-z0-9]+)*")
# A backslash takes the meaning from a backslash, backtick or star after it.
_MARKUP = re.compile(
    r"\\([\\`*])"
    r"|`((?:\\[\\`*]|\\(?![\\`*])|[^\\`])+)`"
    r"|\*\*(?!\s)((?:\\[\\`*]|\\(?![\\`*])|\*(?!\*)|[^\\*])+)(?<!\s)\*\*"
)
_ESCAPE = re.compile(r"\\([\\`*])")
# What no document may hold: control characters, halves of surrogate pairs, non-characters.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_NUMBER = re.compile(
    r"(?=.*\d)(?:[\d.,\s%+\u00b1\u2212\u2013()\[\]<>~-]|\bto\b|(?<=\d)e(?=[-+\d]))+"
)


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """A paragraph of text."""

    text: str


@dataclasses.dataclass(frozen=True)
class Bullets:
    """A list of texts without an order."""

    items: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts; columns of numbers are set to the right.

    Raises:
      ValueError: a row has more or fewer cells than the header, or there is no column.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.header:
            raise ValueError("A table needs at least one column")
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"A row has {len(row)} cells and the header {len(self.header)}: {row!r}"
                )

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers (ranges, percentages, ...), dashes and blanks alone."""
        columns = [[plain(row[i]) for row in self.rows] for i in range(len(self.header))]
        return [
            any(_NUMBER.fullmatch(cell) for cell in cells)
            and all(_NUMBER.fullmatch(cell) or cell in ("", "-", "\u2013") for cell in cells)
            for cells in columns
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture.

    Attributes:
      name: what its file is called without the suffix: lower-case letters, digits, `_` and `-`;
        unlike any other in the document.
      png: the file's bytes.
      caption: text below it.
      alt: what it shows, in plain words without markup, for those who cannot see it.

    Raises:
      ValueError: the name could not be a file's, or the bytes are no PNG file.
    """

    name: str
    png: bytes
    caption: str
    alt: str

    def __post_init__(self) -> None:
        if not _FIGURE_NAME.fullmatch(self.name):
            raise ValueError(
                f"A figure is called {self.name!r}; use lower-case letters, digits, '_' and '-'"
            )
        if not self.png.startswith(_PNG_SIGNATURE) or len(self.png) < 24:
            raise ValueError(f"Figure {self.name!r} is not a PNG file")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return int.from_bytes(self.png[16:20], "big"), int.from_bytes(self.png[20:24], "big")


Block: TypeAlias = Paragraph | Bullets | Table | Figure


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    heading: str
    blocks: Sequence[Block]


@dataclasses.dataclass(frozen=True)
class Document:
    """A title, what stands before the first heading (`lead`), and sections.

    Raises:
      ValueError: two figures have the same name.
    """

    title: str
    sections: Sequence[Section]
    lead: Sequence[Block] = ()

    def __post_init__(self) -> None:
        names = [figure.name for figure in self._all_figures()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"Two figures are called {name!r}")

    @property
    def figures(self) -> Mapping[str, bytes]:
        """The files that the Markdown refers to: `<name>.png` to bytes, in the document's order."""
        return {f"{figure.name}.png": figure.png for figure in self._all_figures()}

    def _all_figures(self) -> Iterator[Figure]:
        for blocks in (self.lead, *(section.blocks for section in self.sections)):
            yield from (block for block in blocks if isinstance(block, Figure))


@dataclasses.dataclass(frozen=True)
class Span:
    """A stretch of text in one style, its markup taken away."""

    text: str
    style: Literal["plain", "code", "bold"] = "plain"


def spans(text: str) -> list[Span]:
    """Takes a text's markup apart; runs of white space, line ends too, become one space."""
    text = one_line(text)
    found: list[Span] = []
    end = 0
    for match in _MARKUP.finditer(text):
        escaped, code_text, bold_text = match.groups()
        found = _joined(found, text[end : match.start()])
        if escaped is not None:
            found = _joined(found, escaped)
        elif code_text is not None:
            found.append(Span(_ESCAPE.sub(r"\1", code_text), "code"))
        else:
            found.append(Span(_ESCAPE.sub(r"\1", bold_text), "bold"))
        end = match.end()
    return _joined(found, text[end:])


def one_line(text: str) -> str:
    """A text fit for any document: without control characters, its white space single spaces."""
    return " ".join(_UNPRINTABLE.sub("\ufffd", text).split())


def plain(text: str) -> str:
    """A text without its markup."""
    return "".join(span.text for span in spans(text))


def literal(text: str) -> str:
    """The text that shows `text` as it is, its backslashes, backticks and stars included."""
    return re.sub(r"([\\`*])", r"\\\1", text)


def code(text: str) -> str:
    """The text that shows `text` as it is, as code."""
    return f"`{literal(text)}`" if text.strip() else ""


def _joined(found: list[Span], more: str) -> list[Span]:
    if not more:
        return found
    if found and found[-1].style == "plain":
        return [*found[:-1], Span(found[-1].text + more)]
    return [*found, Span(more)]
