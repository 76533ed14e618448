"""One content, two renderings: nothing escapes its place, and both say the same."""

import base64
import html.parser
import re
import time

import pytest
from markdown_it import MarkdownIt  # flax needs rich, and rich needs it

from msa_jax.report import html as html_page
from msa_jax.report import markdown
from msa_jax.report.page import (
    Bullets,
    Document,
    Figure,
    Paragraph,
    Section,
    Table,
    code,
    literal,
    plain,
)

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
HOSTILE = [
    "<script>alert(1)</script>",
    "a|b",
    "| a | b |",
    "back\\slash\\|bar",
    "C:\\new\\",
    "`tick`",
    "``two`` `",
    "**bold** *star*",
    "_under_ snake_case __init__",
    "\"double\" 'single'",
    "&amp; &lt;b&gt;",
    "$x$ [a](javascript:alert(1)) ![b](http://c.test/d.png)",
    "# one #",
    "1. first",
    "- item",
    "+ item",
    "> said",
    "---",
    "~~gone~~",
    "</td></table>",
    "<!-- remark",
    "\u4e2d\u6587 \u202e \U0001f600",
]
VOID = {"meta", "img", "br", "link"}


class Reader(html.parser.HTMLParser):
    """Reads a page as a browser would; refuses tags that are not balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), "an attribute stands twice"
        self.texts.setdefault(tag, []).append("")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def page(text: str) -> Reader:
    return Reader(text)


def as_github_reads(text: str) -> Reader:
    """What a Markdown reader of another maker makes of it."""
    return Reader(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text))


def document() -> Document:
    """A document with every kind of block."""
    figure = Figure(name="curves", png=PIXEL, caption="What `A2` learns", alt='a "line" <up>')
    table = Table(
        ["system", "accuracy", "interval"],
        [["majority", "71.5", ""], ["**A2**", "**88.3**", "87.0 to 89.7"], ["`A0`", "-", ""]],
        caption="Test accuracy",
        notes=["In %."],
    )
    return Document(
        "A `page` of **results**",
        [
            Section("Numbers", [Paragraph("Some text."), table]),
            Section("Pictures", [figure]),
            Section("Remarks", [Bullets(["first", "**second**"])]),
        ],
        lead=[Paragraph("In short.")],
    )


def of(text: str) -> Document:
    """A text everywhere that a text may stand."""
    return Document(
        text,
        [
            Section(
                text,
                [
                    Paragraph(text),
                    Bullets([text, text]),
                    Table([text, text], [[text, text]], caption=text, notes=[text]),
                    Figure(name="a", png=PIXEL, caption=text, alt=plain(text)),
                ],
            )
        ],
    )


@pytest.mark.parametrize("given", HOSTILE)
@pytest.mark.parametrize("mark", [literal, code])
def test_any_text_is_shown_as_it_is(given: str, mark: object) -> None:
    assert callable(mark)
    shown = page(html_page.render(of(mark(given))))
    for tag in ("h1", "h2", "p", "li", "figcaption", "caption", "td", "th"):
        assert set(shown.texts[tag]) == {given}, tag
    assert shown.texts["title"] == [given]
    (image,) = [attributes for tag, attributes in shown.tags if tag == "img"]
    assert image["alt"] == given
    assert not {"script", "b", "em", "a"} & {tag for tag, _ in shown.tags}


@pytest.mark.parametrize("given", HOSTILE)
@pytest.mark.parametrize("mark", [literal, code])
def test_any_text_survives_markdown(given: str, mark: object) -> None:
    assert callable(mark)
    shown = as_github_reads(markdown.render(of(mark(given))))
    assert shown.rows == [[given, given], [given, given]]
    assert shown.texts["h1"] == shown.texts["h2"] == [given]
    assert shown.texts["li"] == [given, given]
    assert shown.texts["p"] == [given, given, given, "", given]
    assert not {"script", "b", "em", "a", "s", "ol", "blockquote", "hr"} & set(shown.texts)
    (image,) = [attributes for tag, attributes in shown.tags if tag == "img"]
    assert image["alt"] == given


def test_the_markup_is_shown() -> None:
    for shown in (
        page(html_page.render(document())),
        as_github_reads(markdown.render(document())),
    ):
        assert {"page", "A0", "A2"} <= set(shown.texts["code"])
        assert set(shown.texts["strong"]) >= {"results", "A2", "88.3", "second"}
        assert "*" not in "".join(shown.texts["td"])


@pytest.mark.parametrize("text", ["2 ** 3 ** 4", "a ` b", "****", "**", "``", "\\", "*a*"])
def test_marks_that_mark_nothing_stay(text: str) -> None:
    assert plain(text) == text


def test_control_characters_and_halves_of_characters_do_no_harm() -> None:
    for render in (html_page.render, markdown.render):
        text = render(of(literal("a\x00b\x1b[1m\udcffc\nd\te")))
        text.encode()
        assert not re.search(r"[\x00-\x08\x0b-\x1f]", text)
        assert "d e" in text


def test_long_hostile_texts_take_no_time() -> None:
    began = time.process_time()
    for text in ("`" + "\\" * 20_000, "**" + "\\*" * 20_000, "1" * 20_000 + "x", "1 to " * 5_000):
        html_page.render(of(text))
        markdown.render(of(text))
    assert time.process_time() - began < 60  # what backtracks takes hours


def test_the_page_needs_nothing_from_outside() -> None:
    text = html_page.render(document())
    shown = page(text)
    tags = {tag for tag, _ in shown.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "svg"}
    for _, attributes in shown.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert str(attributes.get("src", "data:image/png;")).startswith("data:image/png;")
        assert str(attributes.get("href", "#")).startswith("#")
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert "@import" not in text
    policies = [a["content"] for tag, a in shown.tags if tag == "meta" and "http-equiv" in a]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_the_picture_itself_is_in_the_page() -> None:
    (image,) = [a for tag, a in page(html_page.render(document())).tags if tag == "img"]
    kind, data = str(image["src"]).split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == PIXEL
    assert image["alt"] == 'a "line" <up>'


def test_links_of_the_contents_lead_somewhere() -> None:
    tags = page(html_page.render(document())).tags
    links = [str(a["href"]) for tag, a in tags if tag == "a"]
    assert len(links) == 3
    assert [link[1:] for link in links] == [a["id"] for tag, a in tags if tag == "h2"]


def test_the_page_adapts_to_phone_dark_and_paper() -> None:
    text = html_page.render(document())
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    for query in ("prefers-color-scheme: dark", "max-width", "print"):
        assert f"@media {query}" in text or f"@media ({query}" in text


def test_both_renderings_hold_the_same_cells_and_texts() -> None:
    first = page(html_page.render(document()))
    second = as_github_reads(markdown.render(document()))
    assert first.rows == second.rows
    assert first.rows[2] == ["A2", "88.3", "87.0 to 89.7"]
    for tag in ("h1", "h2"):
        assert first.texts[tag] == second.texts[tag]
    paragraphs = [text for text in second.texts["p"] if text]
    assert paragraphs == [
        "In short.",
        "Some text.",
        "Test accuracy",
        "In %.",
        "What A2 learns",
    ]
    for text in paragraphs:
        assert text in first.texts["p"] + first.texts["caption"] + first.texts["figcaption"]


def test_the_markdown_names_the_files_of_the_figures() -> None:
    assert dict(document().figures) == {"curves.png": PIXEL}
    assert "](pictures/curves.png)" in markdown.render(document(), figures="pictures")


def test_the_same_document_gives_the_same_text() -> None:
    for render in (html_page.render, markdown.render):
        assert render(document()) == render(document())


@pytest.mark.parametrize(
    ("cells", "numeric"),
    [
        (["71.5", "-", ""], True),
        (["77.2 to 80.7", "**88.3**"], True),
        (["76.0 \u00b1 0.2", "+1.3 %", "\u22124", "[1, 2]", "3e-4", "1,284"], True),
        (["3D-CNN", "4"], False),
        (["1e", "e1"], False),
        (["", "-"], False),
        ([], False),
    ],
)
def test_columns_of_numbers_are_known(cells: list[str], numeric: bool) -> None:
    table = Table(["name", "value"], [["a", cell] for cell in cells])
    assert table.numeric == [False, numeric]
    text = html_page.render(Document("a", [], lead=[table]))
    assert ('<th scope="col" class="number">value</th>' in text) == numeric


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(ValueError, match="3 cells and the header 2"):
        Table(["a", "b"], [["1", "2", "3"]])
    with pytest.raises(ValueError, match="at least one column"):
        Table([], [])
    with pytest.raises(ValueError, match="not a PNG"):
        Figure(name="a", png=b"<svg/>", caption="", alt="")
    for name in ("../a", "a b", "A", "", "a.png", "a\n"):
        with pytest.raises(ValueError, match="lower-case letters"):
            Figure(name=name, png=PIXEL, caption="", alt="")
    twice = Figure(name="a", png=PIXEL, caption="", alt="")
    with pytest.raises(ValueError, match="Two figures are called 'a'"):
        Document("a", [Section("b", [twice])], lead=[twice])
